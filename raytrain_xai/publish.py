"""Trained runs for others: ``raytrain-xai models publish`` and ``pull``.

A published folder is a run folder, and every command works on it: configuration, metrics, log and the one checkpoint
that was measured, without optimiser state. Besides it has a model card (``README.md``, ``card.json``, ``pictures/``)
and ``SHA256SUMS``, which lists every other file, is written last and can be checked with ``sha256sum -c``. Other files
in the folder (reports, evaluations made later) are no part of the publication.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from raytrain_xai.checkpoint import (
    MANIFEST,
    MODEL,
    OPTIMIZER,
    STATE,
    checkpoint_name,
    load_network,
    read_checkpoint,
    write_checkpoint,
)
from raytrain_xai.credentials import without_credentials
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.explain import Explainer, available_device
from raytrain_xai.report.card import build_card, render_card
from raytrain_xai.report.runs import read_runs
from raytrain_xai.run_folder import CHECKPOINTS, CONFIG, LOG, METRICS, PARETO, SUMS
from raytrain_xai.storage import (
    Location,
    exists,
    list_names,
    locate,
    read_bytes,
    rename_folder,
    unfinished,
    write_bytes,
)

README, CARD = "README.md", "card.json"
NUM_PICTURES = 6
_REQUIRED = (CONFIG, METRICS, LOG, PARETO, README, CARD)


@dataclass(frozen=True)
class Delivered:
    """A complete publication.

    Attributes:
        uri: its folder.
        num_files: besides ``SHA256SUMS``.
        was_there: True when the same publication had been there before and is whole.
    """

    uri: str
    num_files: int
    was_there: bool


def publish_run(
    run: str, dest: str, *, license_name: str, num_pictures: int = NUM_PICTURES, data: str | None = None
) -> Delivered:
    """Publish a finished run with its model card; equal runs give equal files.

    Access keys inside addresses (``s3://KEY:SECRET@...``) are removed; folder names of the configuration stay.

    Args:
        run: run folder, local or s3://.
        dest: folder that becomes the publication, local or s3://; nothing is there until it is complete.
        license_name: of the weights, an SPDX identifier or a short text.
        num_pictures: example heatmaps shown on the card; they are images of the data set, 0 publishes none.
        data: stored data set of the pictures; by default that of the run.
    Raises:
        ConfigError: not a run, ``dest`` is taken, or an empty licence.
        CheckpointError: the run is not finished or a file of it is damaged.
        DataError: the data set of the pictures cannot be read.
    """
    if not license_name.strip():
        raise ConfigError("a publication needs a licence; give --license an SPDX identifier such as Apache-2.0")
    [record] = read_runs([run])
    network, config, info, _ = load_network(run, device=available_device())
    name = checkpoint_name(info["step"])
    explainer = Explainer.of_run(network, config, info, origin=name)
    files = {file: read_bytes(record.at.child(file)) for file in (CONFIG, METRICS, LOG, PARETO)}
    files |= _slim_checkpoint(record.at.child(CHECKPOINTS, name))
    weights = f"{CHECKPOINTS}/{name}/{MODEL}"
    about = {
        "license": license_name.strip(),
        "weights": {"file": weights, "sha256": hashlib.sha256(files[weights]).hexdigest()},
    }
    card, pictures = build_card(record, explainer, info, num_pictures=num_pictures, data=data)
    card = about | card
    files |= pictures | {CARD: _json(card), README: render_card(card).encode()}
    files = {file: _without_access_keys(file, content) for file, content in files.items()}
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    return _deliver(sums, files.__getitem__, locate(dest))


def pull(src: str, dest: str) -> Delivered:
    """Copy a publication and verify it; an interrupted pull into a local folder goes on where it stopped.

    Args:
        src: published folder, local or s3://.
        dest: folder that becomes the run, local or s3://; no run is there until it is complete.
    Raises:
        ConfigError: ``dest`` is taken.
        CheckpointError: ``src`` is no publication, or a file is missing or differs from its checksum.
    """
    source = locate(src)
    sums = read_sums(source)
    return _deliver(sums, lambda file: _verified(source, file, sums[file]), locate(dest))


def read_sums(at: Location) -> dict[str, str]:
    """``SHA256SUMS`` of a publication: file -> SHA-256, hexadecimal.

    Raises:
        CheckpointError: there is none, or it is damaged, names files outside of the folder, or leaves out what makes
            a run.
    """
    if not exists(at.child(SUMS)):
        raise CheckpointError(
            f"{at.uri} is no published run: it has no {SUMS} (or its publication was interrupted); make one with "
            f"`raytrain-xai models publish RUN {at.uri}`"
        )
    sums: dict[str, str] = {}
    for number, line in enumerate(read_bytes(at.child(SUMS)).decode(errors="replace").splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        if match is None or match[2] in sums or not _is_inside(match[2]):
            raise CheckpointError(
                f"{at.child(SUMS).uri} is damaged: line {number} is not `<sha256>  <file>` with a new file of this "
                "folder; publish again"
            )
        sums[match[2]] = match[1]
    missing = [name for name in _REQUIRED if name not in sums]
    checkpoints = [file for file in sums if re.fullmatch(rf"{CHECKPOINTS}/step-\d+/{re.escape(MANIFEST)}", file)]
    if missing or len(checkpoints) != 1:
        what = f"without {', '.join(missing)}" if missing else f"with {len(checkpoints)} checkpoints instead of one"
        raise CheckpointError(f"{at.child(SUMS).uri} lists a run {what}; publish again")
    return sums


def _slim_checkpoint(folder: Location) -> dict[str, bytes]:
    """Files of a checkpoint with the measured weights and nothing that only a resumed run needs."""
    found = read_checkpoint(folder, with_optimizer=False)
    state = json.loads(without_credentials(json.dumps(found.state)))
    slim = replace(found, model=found.measured, optimizer={}, state=state, ema={})
    with tempfile.TemporaryDirectory() as parent:
        written = write_checkpoint(locate(parent), slim, lambda: None)
        names = (MODEL, OPTIMIZER, STATE, MANIFEST)
        name = PurePosixPath(written.path).name
        return {f"{CHECKPOINTS}/{name}/{file}": read_bytes(written.child(file)) for file in names}


def _deliver(sums: Mapping[str, str], read: Callable[[str], bytes], dest: Location) -> Delivered:
    """Bring the files of a publication to ``dest``, ``SHA256SUMS`` last and just before it what makes it a run."""
    delivered = Delivered(dest.uri, len(sums), was_there=_is_there(sums, dest))
    if delivered.was_there:
        return delivered
    listing = "".join(f"{digest}  {file}\n" for file, digest in sorted(sums.items())).encode()
    # One name per content, so that what an interrupted pull left there can only be files of this publication.
    at = unfinished(dest, hashlib.sha256(listing).hexdigest()[:12]) if dest.is_local else dest
    for file in sorted(sums, key=lambda file: (file == CONFIG, file)):
        target = at.child(*file.split("/"))
        if not (dest.is_local and exists(target) and _digest(target) == sums[file]):
            write_bytes(target, read(file))
    write_bytes(at.child(SUMS), listing)
    if dest.is_local:
        rename_folder(at, dest)
    return delivered


def _is_there(sums: Mapping[str, str], dest: Location) -> bool:
    """Whether ``dest`` is this very publication already.

    Raises:
        ConfigError: something else is there.
        CheckpointError: it is there but damaged.
    """
    if exists(dest.child(SUMS)) and read_sums(dest) == sums:
        for file, digest in sums.items():
            _verified(dest, file, digest)
        return True
    present = set(list_names(dest))
    begun = set() if dest.is_local else {file.partition("/")[0] for file in sums} - {CONFIG}
    if present - begun:
        what = "a run" if CONFIG in present else "something else"
        raise ConfigError(f"{dest.uri} is taken: it holds {what}; give a new folder, or delete that one first")
    return False


def _verified(at: Location, file: str, digest: str) -> bytes:
    place = at.child(*file.split("/"))
    if not exists(place):
        raise CheckpointError(f"{at.uri} is damaged: {file} is missing; publish or copy it again")
    content = read_bytes(place)
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise CheckpointError(
            f"{place.uri} is damaged or not the published file: its {len(content)} bytes have the SHA-256 "
            f"{found[:12]}..., {SUMS} says {digest[:12]}...; publish or copy it again"
        )
    return content


def _digest(at: Location) -> str:
    return hashlib.sha256(read_bytes(at)).hexdigest()


def _is_inside(file: str) -> bool:
    """Whether a listed path stays in its folder on every system."""
    parts = file.split("/")
    return not re.search(r"[\\:\x00-\x1f]", file) and all(part not in ("", ".", "..") for part in parts)


def _without_access_keys(file: str, content: bytes) -> bytes:
    is_text = file.endswith((".yaml", ".json", ".jsonl", ".md")) and not file.startswith(CHECKPOINTS)
    return without_credentials(content.decode()).encode() if is_text else content


def _json(values: Mapping[str, object]) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
