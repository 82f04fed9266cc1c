"""The images' recipe, read line by line: stages, sources, user, and nothing secret in any of them."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from importlib.metadata import version

import pytest
from shipped_values import ROOT, render

from raytrain_xai.cluster.pods import USER

Instruction = tuple[str, str]


@dataclass
class Stage:
    """A stage with what it inherits from earlier stages of the file in front of its own."""

    base: str
    steps: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [text for step, text in self.steps if step == name]


def instructions() -> list[Instruction]:
    text = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [tuple(line.split(None, 1)) for line in lines.replace("\\\n", " ").splitlines() if line.strip()]  # type: ignore[misc]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for name, text in instructions():
        if name == "FROM":
            base, _, alias = re.fullmatch(r"(\S+)( AS (\S+))?", text).groups()
            current = found[alias] = Stage(base, list(found[base].steps) if base in found else [])
        elif current is not None:
            current.steps.append((name, text))
        else:
            assert name == "ARG"
    return found


def copied(stage: Stage) -> list[str]:
    """Sources that come from the repository."""
    return [source for text in stage.all("COPY") if not text.startswith("--from=") for source in text.split()[:-1]]


def test_stages(stages: dict[str, Stage]) -> None:
    assert list(stages) == ["build", "build-cpu", "build-cuda", "run", "cpu", "cuda"]
    assert stages["cpu"].base == stages["cuda"].base == "run"
    for name in ("cpu", "cuda"):
        assert f"--from=build-{name} /opt/venv /opt/venv" in stages[name].all("COPY")


def test_base_images_are_pinned_by_tag(stages: dict[str, Stage]) -> None:
    (default,) = [text for name, text in instructions() if name == "ARG" and text.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.1[1-4]\.\d+-slim-[a-z]+", default)
    outside = {stage.base for stage in stages.values()} - stages.keys()
    assert outside == {"python:${PYTHON}"}


def test_images_run_without_rights(stages: dict[str, Stage]) -> None:
    for name in ("cpu", "cuda"):
        assert stages[name].all("USER")[-1] == f"{USER}:{USER}"
        assert not stages[name].all("HEALTHCHECK")
        assert not stages[name].all("EXPOSE")
        environment = " ".join(stages[name].all("ENV"))
        assert "RAY_USAGE_STATS_ENABLED=0" in environment
        assert "RAY_AUTH_MODE=token" in environment


def test_login_shells_find_the_commands_too(stages: dict[str, Stage]) -> None:
    for name in ("cpu", "cuda"):
        assert "echo 'PATH=/opt/venv/bin:$PATH' > /etc/profile.d/venv.sh" in stages[name].all("RUN")
        assert any(text.startswith("PATH=/opt/venv/bin:$PATH") for text in stages[name].all("ENV"))


def test_nothing_is_fetched_by_the_recipe_itself() -> None:
    for name, text in instructions():
        assert name != "ADD"
        assert not re.search(r"\b(curl|wget|git clone)\b", text)
        assert not re.search(r"https?://|--trusted-host|--privileged|--security=insecure", text)


def test_nothing_secret() -> None:
    for name, text in instructions():
        if name in ("ENV", "ARG"):
            assert not re.search(r"(TOKEN|SECRET|PASSWORD|KEY)\w*=", text)
    assert all("--mount=type=secret" not in text for _, text in instructions())


def test_sources_exist_and_reach_the_builder(stages: dict[str, Stage]) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    kept = {line[1:] for line in ignored if line.startswith("!")}
    sources = {source for stage in stages.values() for source in copied(stage)}
    assert {"pyproject.toml", "raytrain_xai", "serve", "configs", "cluster/values"} <= sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in kept, source
    assert ignored[1] == "*"  # nothing else goes there


def test_files_with_secrets_stay_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    hidden = [line.removeprefix("**/") for line in ignored if line.startswith("**/")]
    for name in (".env", ".env.local", "server.pem", "server.key", "keys.jsonl", "auth_token"):
        assert any(fnmatch.fnmatch(name, pattern) for pattern in hidden), name


def test_both_images_hold_the_ray_that_the_manifests_name(stages: dict[str, Stage]) -> None:
    for name in ("build-cpu", "build-cuda"):
        assert f"RAY={version('ray')}" in stages[name].all("ARG")
        assert any('"ray[data,train,tune,serve]==${RAY}"' in text for text in stages[name].all("RUN"))


def test_the_package_finds_what_its_build_needs() -> None:
    build = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'packages = ["raytrain_xai", "serve"]' in build
    assert {'readme = "README.md"', 'license-files = ["LICENSE"]'} <= set(build.splitlines())


def test_manifests_use_what_is_built() -> None:
    text = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    image = render("base").values.image
    assert f"--target cpu  -t {image.cpu} " in text
    assert f"--target cuda -t {image.cuda} " in text
    assert f'version = "{image.cpu.split(":")[1].split("-")[0]}"' in (ROOT / "pyproject.toml").read_text(
        encoding="utf-8"
    )
