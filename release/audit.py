"""``python -m release.audit``: known vulnerabilities of what is installed here, by pip-audit and OSV's advisories.

Exits with 0 when none is known, 1 when some are, and 3 when nobody could be asked: silence is no audit. Floors that
hold without a network are in ``advisories.csv`` and tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import click

_LIMIT_S = 900  # one question per package


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--osv-url", default="https://api.osv.dev/v1/query", show_default=True, help="OSV's API, or a mirror of it."
)
def main(osv_url: str) -> None:
    """Audit the packages installed beside this interpreter."""
    packages = _asked(osv_url)
    found = 0
    for package in packages:
        if "skip_reason" in package:
            click.echo(f"not audited: {package['name']}: {package['skip_reason']}")
        for problem in package.get("vulns", []):
            found += 1
            names = ", ".join([problem["id"], *problem["aliases"]])
            fixed = ", ".join(problem["fix_versions"]) or "no release yet"
            click.echo(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    audited = sum("skip_reason" not in package for package in packages)
    click.echo(f"{found} known vulnerabilities in {audited} packages, by {osv_url}")
    sys.exit(1 if found else 0)


def _asked(osv_url: str) -> list[dict[str, Any]]:
    """What pip-audit reports of every package; leaves the process when it could not ask."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--vulnerability-service", "osv", "--osv-url", osv_url],
            capture_output=True, text=True, timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        return json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        reason = f"no end after {_LIMIT_S} s"
    except (json.JSONDecodeError, KeyError):  # it exits with 1 for vulnerabilities and for failures alike
        reason = done.stderr.strip().rpartition("\n")[2]
    click.echo(f"NOT AUDITED: {osv_url} could not be asked: {reason}", err=True)
    sys.exit(3)


if __name__ == "__main__":
    main()
