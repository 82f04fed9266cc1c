"""Program: a run on a file system of 64 MB that others fill at step 4, and again when there is room.

Started in a namespace in which it may mount: ``unshare -Urm python full_disk.py CONFIG OUT``. Writes into the folder
OUT what the run said and left behind.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from raytrain_xai.checkpoint import complete_steps, read_checkpoint
from raytrain_xai.config import parse_config
from raytrain_xai.errors import RunError
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.storage import locate

_SIZE = "64m"


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
