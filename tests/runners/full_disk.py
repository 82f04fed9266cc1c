"""Program: a run on a file system of 64 MB that others fill when they hear of step 4, and again when there is room.

Started in a namespace in which it may mount: ``unshare -Urm python full_disk.py CONFIG OUT``. Writes into the folder
OUT what the run said and left behind. Tests call :func:`train_on_a_full_disk`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raytrain_xai.checkpoint import complete_steps, read_checkpoint
from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.errors import RunError
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.storage import locate

_SIZE = "64m"
_OWN = ("unshare", "--user", "--map-root-user", "--mount")


def train_on_a_full_disk(config: RunConfig, out: Path) -> dict[str, Any]:
    """Run this program in a namespace of its own; skips where that is not allowed.

    Args:
        config: its storage is a folder that is not there yet.
        out: gets the folder of the run, at the end.
    Returns:
        ``said``, the error that ended the run, and ``steps``, whose checkpoints were complete then.
    """
    if shutil.which("unshare") is None or subprocess.run([*_OWN, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system in a namespace of their own")
    file = out / "full.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    command = [*_OWN, sys.executable, __file__, str(file), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads((out / "report.json").read_text())
    assert "No space left on device; the run stops here and keeps its checkpoints" in report["said"]
    assert "`raytrain-xai resume " in report["said"]
    return report


def fill(file: Path) -> None:
    """Leave not one byte."""
    block = b"x" * (1 << 20)
    with file.open("wb", buffering=0) as taken:
        while block:
            try:
                taken.write(block)
            except OSError:
                block = block[: len(block) // 2]


def main(config_file: Path, out: Path) -> None:
    config = parse_config(yaml.safe_load(config_file.read_text()))
    disk, ballast = Path(config.storage), Path(config.storage) / "ballast"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(disk)], check=True)

    def others_fill_the_disk(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == 4:
            fill(ballast)

    said = ""
    try:
        start_run(config, Launch("local", others_fill_the_disk))
    except RunError as error:
        said = str(error)
    checkpoints = locate(str(disk / config.name / "checkpoints"))
    steps = complete_steps(checkpoints)
    for step in steps:
        read_checkpoint(checkpoints.child(f"step-{step:08d}"))  # raises unless every byte is there
    ballast.unlink()
    resume_run(str(disk / config.name), [], Launch("local", [].append))
    (out / "report.json").write_text(json.dumps({"said": said, "steps": steps}))
    shutil.copytree(disk / config.name, out / config.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
