"""Releases: floors of dependencies, the audit, the inventory and signed notes, all without a network."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {Requirement(line).name.lower(): Requirement(line) for line in PROJECT["dependencies"]}
with (ROOT / "release" / "advisories.csv").open(encoding="utf-8", newline="") as file:
    ADVISORIES = list(csv.DictReader(file))


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.parametrize("advisory", ADVISORIES, ids=[row["advisory"] for row in ADVISORIES])
def test_what_an_advisory_needs_is_installed_and_asked_for(advisory: dict[str, str]) -> None:
    package, fixed = advisory["package"], Version(advisory["fixed_in"])
    assert Version(version(package)) >= fixed
    floors = [Version(clause.version) for clause in OURS[package].specifier if clause.operator == ">="]
    assert max(floors) >= fixed, f"pyproject.toml lets {package} {floors} in"


def test_packages_that_were_turned_down_are_not_asked_for() -> None:
    """Each has run code of strangers, or keeps no promise about security; see docs/threat-model.md."""
    lines = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    names = {Requirement(line).name.lower() for line in lines}
    assert not names & {"gradio", "aim", "lightning", "pytorch-lightning", "dill", "joblib"}


@pytest.fixture
def advisories() -> Iterator[str]:
    """Address of a server that speaks as OSV does, and knows one vulnerability of Pillow."""

    class Osv(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = {"vulns": [VULNERABILITY]} if asked["package"]["name"].lower() == "pillow" else {}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002, ARG002 - silent
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


VULNERABILITY = {
    "id": "GHSA-test-test-test", "aliases": ["CVE-2099-1"], "summary": "s", "details": "d",
    "published": "2026-01-01T00:00:00Z",
    "affected": [{
        "package": {"name": "pillow", "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
    }],
}  # fmt: skip


def test_a_vulnerability_fails_the_audit(advisories: str) -> None:
    done = run(sys.executable, "-m", "release.audit", "--osv-url", advisories)
    assert done.returncode == 1, done.stderr
    said = rf"^pillow {re.escape(version('pillow'))}: (?=.*GHSA-test-test-test)(?=.*CVE-2099-1).*; fixed in 99.1$"
    assert re.search(said, done.stdout, re.M | re.I)
    assert re.search(r"^1 known vulnerabilities in \d{2,} packages", done.stdout, re.M)


def test_an_audit_that_could_not_ask_does_not_pass() -> None:
    done = run(sys.executable, "-m", "release.audit", "--osv-url", "http://127.0.0.1:9/v1/query")
    assert done.returncode == 3
    assert done.stderr.startswith("NOT AUDITED: http://127.0.0.1:9/v1/query could not be asked: ")


def test_the_inventory_holds_every_dependency_with_its_version(tmp_path: Path) -> None:
    tool = ROOT / ".venv-inventory" / "bin" / "cyclonedx-py"
    if not tool.is_file():
        pytest.skip("the inventory tool is not installed; `make test` does it")
    out = tmp_path / "sbom.json"
    made = [str(tool), "environment", "--pyproject", "pyproject.toml", "--output-reproducible", "--of", "JSON"]
    done = run(*made, "--output-file", str(out), sys.executable)
    assert done.returncode == 0, done.stderr
    bom = json.loads(out.read_text())
    assert (bom["bomFormat"], bom["metadata"]["component"]["name"]) == ("CycloneDX", "raytrain-xai")
    found = {part["name"].lower().replace("_", "-"): part["version"] for part in bom["components"]}
    assert {name: found.get(name) for name in OURS} == {name: version(name) for name in OURS}


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A wheel to be, a maintainer's key, and the list of those who may sign."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(tmp_path / "key"))
    public = (tmp_path / "key.pub").read_text().strip()
    (tmp_path / "allowed_signers").write_text(f'maintainers namespaces="raytrain-xai-release" {public}\n')
    (tmp_path / "a.whl").write_bytes(b"content")
    return tmp_path


def sign(dist: Path, changes_of: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "release.notes", changes_of, str(dist / "a.whl"), "--key", str(dist / "key"))


def test_notes_say_themselves_how_they_are_verified(dist: Path) -> None:
    done = sign(dist, "Unreleased")
    assert done.returncode == 0, done.stderr
    notes = dist / "RELEASE-Unreleased.md"
    text = notes.read_text()
    assert "Explanation-guided training as one job" in text
    commands = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert len(commands) == 2

    def verified() -> list[bool]:
        return [run("bash", "-c", command, cwd=dist).returncode == 0 for command in commands]

    assert verified() == [True, True]
    (dist / "a.whl").write_bytes(b"tampered")
    assert verified() == [True, False]
    notes.write_text(text.replace("guided", "misguided", 1))
    assert verified() == [False, False]


def test_notes_of_a_version_without_changes_are_refused(dist: Path) -> None:
    done = sign(dist, "98.7.6")
    assert done.returncode == 2
    assert "CHANGELOG.md has no section 98.7.6" in done.stderr
    assert not list(dist.glob("RELEASE*"))
