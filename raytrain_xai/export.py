"""A trained classifier and its explanation as one ``.pt2`` file that runs with torch alone (``torch.export``).

The program is the network in evaluation mode with one walk back through it: images and a class per image in, logits and
the explanation of that class out. It holds torch's own operators only, none of a device or of this package, and any
batch size. Inside the file, as ``model.json``: classes, preprocessing, and what goes in and comes out.

What a reader has to know: the files written here hold JSON and raw tensors, nothing pickled (no example inputs are
kept, which ``torch.export.save`` would pickle). ``torch.export.load`` however would unpickle what a *foreign* file
brings, and evaluate shape expressions in it; it must be trusted like a program, so compare its SHA-256 first.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raytrain_xai import __version__
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.checkpoint import checkpoint_name, load_network
from raytrain_xai.errors import ConfigError, RunError
from raytrain_xai.explain import Explainer
from raytrain_xai.storage import locate, write_bytes

FORMAT_VERSION = 1
SUFFIX = ".pt2"
INDEX = "model.json"  # name inside the file
STRONGEST = -1  # target that stands for the class with the largest logit
TOLERANCE = 1e-3  # of float32, relative to the largest value: the reloaded program orders some sums differently
_RGBA_TOLERANCE = 0.5  # levels of 255, mean: the colour of a pixel with hardly any weight is a ratio of rounding

_INPUTS = {
    "images": "(B, 3, S, S) uint8, RGB; S is preprocessing.image_size, B any number from 1",
    "target": f"(B,) int64, the class to explain for each image; {STRONGEST} for the one with the largest logit",
}
_OUTPUTS = {
    "logits": "(B, C) float32, in the order of classes",
    "target": "(B,) int64, the class that was explained",
    "attribution": "(B, S, S) float32, signed: positive speaks for the class",
}
_BCOS_OUTPUTS = {
    "completeness_residual": "(B,) float32, |sum of the input's contributions + logit bias - logit|: 0 up to rounding, "
    "or in transformers the share of the position code",
    "rgba": "(B, S, S, 4) uint8, the explanation in the colours of the image, opacity last",
}


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        uri: its address.
        num_bytes: its size.
        sha256: of its content.
        deviation: largest difference of logits and attribution between the file, loaded again, and the run, on random
            images, as a share of the largest value.
    """

    uri: str
    num_bytes: int
    sha256: str
    deviation: float


class ExplainedClassifier(nn.Module):
    """Logits and the explanation of one class per image as one forward pass of tensors.

    Args:
        explainer: network, attribution method and layer.
    """

    def __init__(self, explainer: Explainer) -> None:
        super().__init__()
        self.network = explainer.network
        self._explainer = explainer

    def forward(self, images: Tensor, target: Tensor) -> dict[str, Tensor]:
        """See ``inputs`` and ``outputs`` of ``model.json``."""
        tapped = tapped_pass(self.network, images, self._explainer.layer)
        target = torch.where(target == STRONGEST, tapped.logits.argmax(dim=1), target)
        pairs = self._explainer.explain_pairs(images, tapped, target)
        found = {"logits": tapped.logits, "target": target, "attribution": pairs.maps}
        if pairs.residuals is not None and pairs.rgba is not None:
            found |= {"completeness_residual": pairs.residuals, "rgba": pairs.rgba}
        return found


def export_run(run: str, out: str, *, which: str = "selected") -> Exported:
    """Write the network of a run with the attribution it was trained and measured with as a ``.pt2`` file.

    The file is loaded again and compared with the run on random images before it is written.

    Args:
        run: run folder, local or s3://.
        out: file to write, local or s3://; must end in ``.pt2``.
        which: checkpoint, see :func:`raytrain_xai.checkpoint.load_network`.
    Raises:
        ConfigError: ``out`` has another ending, or the run is measured with Integrated Gradients.
        CheckpointError: no such checkpoint, it is damaged, or its network answers with non-finite logits.
        RunError: torch cannot trace the network, or the reloaded program answers differently.
    """
    at = locate(out)
    if not at.path.endswith(SUFFIX):
        raise ConfigError(f"{out} does not end in {SUFFIX}; torch.export reads no other file, give OUT{SUFFIX}")
    network, config, info, _ = load_network(run, which=which)
    network.requires_grad_(False)  # the parameters of the file are constants too: its outputs carry no graph
    checkpoint = checkpoint_name(info["step"])
    explainer = Explainer.of_run(network, config, info, origin=checkpoint)
    data = program_bytes(explainer, {"name": config.name, "checkpoint": checkpoint, "task": info["task"]})
    deviation = _deviation(data, explainer)
    if not deviation <= TOLERANCE:
        raise RunError(
            f"the exported program of {run} deviates from it by {deviation:.1e} of the largest value, more than "
            f"{TOLERANCE:g}; nothing was written, please report this with the versions of torch and of this package"
        )
    write_bytes(at, data)
    return Exported(at.uri, len(data), hashlib.sha256(data).hexdigest(), deviation)


def program_bytes(explainer: Explainer, about: dict[str, Any]) -> bytes:
    """Content of a ``.pt2`` file; the network is on the CPU.

    Args:
        explainer: network, attribution method and layer.
        about: JSON values added to ``model.json``.
    Raises:
        ConfigError: the attribution cannot be exported.
    """
    buffer = io.BytesIO()
    torch.export.save(_trace(explainer), buffer, extra_files={INDEX: json.dumps(about | _index(explainer), indent=1)})
    return buffer.getvalue()


def _trace(explainer: Explainer) -> torch.export.ExportedProgram:
    if explainer.method == "intgrad":
        raise ConfigError(
            "Integrated Gradients cannot be exported: it cuts its path into parts by the size of the batch; train with "
            "guidance.attribution=ixg or gradcam, or use `raytrain-xai explain`"
        )
    size = explainer.image_size
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # two: a batch of one would be taken for a constant
    target = torch.tensor([STRONGEST, 0])
    module = ExplainedClassifier(explainer).eval()
    with torch.no_grad():
        module(images, target)  # folds filters and norms; a trace holds what was folded before it, and cannot fold
        try:
            traced = _export(module, images, target)
            return _export(_only_used(traced.module()), images, target)
        except Exception as error:  # a tracer fails with whatever the line it stands on raises
            raise RunError(
                f"torch.export cannot trace {explainer.network.name} with {explainer.method} at {explainer.layer} "
                f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}); export another run"
            ) from error


def _export(module: nn.Module, images: Tensor, target: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    shapes = {"images": {0: batch}, "target": {0: batch}}
    program = torch.export.export(module, (images, target), dynamic_shapes=shapes)
    program.example_inputs = None  # the only thing in a file that would be pickled
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source lines and folders of this machine
    return program


def _only_used(module: nn.Module) -> nn.Module:
    """Without the parameters that folding replaced, which would double the file."""
    assert isinstance(module, torch.fx.GraphModule)
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    module.recompile()
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in used]:
        owner, _, leaf = name.rpartition(".")
        delattr(module.get_submodule(owner), leaf)
    return module


def _index(explainer: Explainer) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "model": explainer.network.name,
        "classes": list(explainer.classes),
        "preprocessing": explainer.preprocessing,
        "attribution": {"method": explainer.method, "layer": explainer.layer},
        "inputs": _INPUTS,
        "outputs": _OUTPUTS | (_BCOS_OUTPUTS if explainer.network.is_bcos else {}),
        "raytrain_xai": __version__,
        "torch": str(torch.__version__),
    }


def _deviation(data: bytes, explainer: Explainer) -> float:
    """See :class:`Exported`; infinite when the explained classes or the colours differ."""
    size = explainer.image_size
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([STRONGEST, 0, len(explainer.classes) - 1])
    with torch.no_grad():
        found = torch.export.load(io.BytesIO(data)).module()(images, target)
    logits, pairs = explainer.attribute(images, found["target"])
    if found["target"].tolist() != [int(logits[0].argmax()), *target[1:].tolist()]:
        return math.inf
    if pairs.rgba is not None and float((found["rgba"].float() - pairs.rgba).abs().mean()) > _RGBA_TOLERANCE:
        return math.inf
    shares = [
        (found[name] - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
        for name, expected in (("logits", logits), ("attribution", pairs.maps))
    ]
    return float(torch.stack(shares).max())
