"""A command of ours as a Ray job: what it needs is uploaded, what it must know is set, and nothing else travels."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from raytrain_xai.errors import ConfigError, RunError
from raytrain_xai.runners import job_probe
from raytrain_xai.runners.job_follow import Follower
from raytrain_xai.runners.job_server import MODE, JobServer, calling

DISTRIBUTION = "raytrain-xai"
STOP_WAIT_S = 600
"""What a stopped job has for its checkpoint before Ray kills it; Ray's own choice is 3 s."""

_PROGRAM = ("python", "-m", "raytrain_xai")
_PASSED_ON = (  # names and a time, never secrets
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "RAYTRAIN_XAI_STORAGE_WAIT_S",
)  # fmt: skip
_NO_PROGRAM = 127  # what a shell answers when there is no such command


@dataclass(frozen=True)
class JobPlan:
    """A command that can run on another machine.

    Attributes:
        name: begins the identifier of the job.
        args: of ``raytrain-xai``; files are named by their place in the upload.
        texts: place in the upload -> content.
        files: place in the upload -> file on this machine.
        local: KEY=PATH of the paths that the cluster's nodes have to see as this machine does.
        num_cpus: of the process that drives the job.
        num_gpus: the same.
    """

    name: str
    args: tuple[str, ...]
    texts: Mapping[str, str]
    files: Mapping[str, Path]
    local: tuple[str, ...]
    num_cpus: float = 0.0
    num_gpus: float = 0.0


def submit(server: JobServer, plan: JobPlan) -> str:
    """Start a job; returns its identifier.

    A small job before it looks at what the cluster has, and this package is uploaded where it is missing or another.

    Raises:
        ConfigError: the cluster lacks what this package needs, or an endpoint holds credentials.
        RunError: the cluster refused.
    """
    env_vars = {MODE: server.mode, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **storage_names(os.environ)}
    folders = [_folder_of(name) for name in job_probe.PACKAGES]
    runtime_env: dict[str, Any] = {"env_vars": env_vars}
    if not _has_package(server, folders):
        runtime_env |= {"py_modules": [str(folder) for folder in folders], "excludes": ["__pycache__", "*.pyc"]}
    with tempfile.TemporaryDirectory(prefix="rx-") as upload:
        _fill(Path(upload), plan)
        with calling(server.url):
            return server.client.submit_job(
                entrypoint=f"exec {shlex.join([*_PROGRAM, *plan.args])}",  # exec: SIGTERM reaches it and no shell
                submission_id=f"{plan.name}-{uuid.uuid4().hex[:8]}",
                runtime_env={**runtime_env, "working_dir": upload},
                entrypoint_num_cpus=plan.num_cpus or None,
                entrypoint_num_gpus=plan.num_gpus or None,
            )


def _fill(upload: Path, plan: JobPlan) -> None:
    for place, text in plan.texts.items():
        (upload / place).write_text(text, encoding="utf-8")
    for place, file in plan.files.items():
        (upload / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, upload / place)


def _folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, "the wheel holds both packages"
    return Path(spec.origin).parent


def _has_package(server: JobServer, folders: list[Path]) -> bool:
    """Whether the cluster's own package is this one, file by file.

    Raises:
        ConfigError: what it lacks to run either.
    """
    needs = _requirements()
    found = _probe(server, list(needs))
    wrong = [] if needs["python"].contains(found["python"]) else [f"Python {found['python']} ({needs['python']})"]
    for name, version in found["versions"].items():
        if name != "python" and (version is None or not needs[name].contains(version, prereleases=True)):
            wrong.append(f"{name} {version or '(none)'} ({needs[name] or 'any version'})")
    if wrong:
        raise ConfigError(
            f"the cluster at {server.url} cannot run {DISTRIBUTION}: it has {', '.join(wrong)}; use an image with what "
            "this package needs, see cluster/Dockerfile"
        )
    return found["digest"] == job_probe.digest_of(folders)


def _requirements() -> dict[str, Any]:
    """Distribution, or ``python`` -> versions that this package runs with."""
    from packaging.specifiers import SpecifierSet

    try:
        about = metadata(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise ConfigError(
            f"{DISTRIBUTION} is not installed here, so what it needs of a cluster is not known; pip install it (-e .)"
        ) from error
    asked = [Requirement(line) for line in about.get_all("Requires-Dist") or []]
    needs = {each.name: each.specifier for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})}
    return {"python": SpecifierSet(about["Requires-Python"] or ""), **needs}


def _probe(server: JobServer, distributions: list[str]) -> dict[str, Any]:
    """What the head has; see :mod:`raytrain_xai.runners.job_probe`."""
    output: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rx-") as upload:
        shutil.copyfile(job_probe.__file__, Path(upload) / "job_probe.py")
        with calling(server.url):
            job = server.client.submit_job(
                entrypoint=f"exec {shlex.join(['python', 'job_probe.py', *distributions])}",
                submission_id=f"{DISTRIBUTION}-looks-{uuid.uuid4().hex[:8]}",
                runtime_env={"working_dir": upload, "env_vars": {MODE: server.mode}},
            )
    end = Follower(server, job, output.append).to_end()
    lines = "".join(output).strip().splitlines()
    if end.code == _NO_PROGRAM:
        raise ConfigError(f"the head of the cluster at {server.url} has no `python` on its PATH; start Ray with one")
    if end.code != 0 or not lines:
        raise RunError(f"job {job}, which looks at what the cluster has, failed: {lines[-1] if lines else 'no output'}")
    return json.loads(lines[-1])


def storage_names(environ: Mapping[str, str]) -> dict[str, str]:
    """Where the storage is. Keys to it are the cluster's own: what is set for a job, its dashboard shows.

    Raises:
        ConfigError: an endpoint with a user name or password in it.
    """
    names = {name: environ[name] for name in _PASSED_ON if environ.get(name)}
    for name, value in names.items():
        if "@" in urlsplit(value).netloc:
            raise ConfigError(f"{name} holds a user name or password, which the dashboard would show; leave it out")
    return names
