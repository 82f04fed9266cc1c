"""``python -m release.notes VERSION --key KEY FILE...``: release notes with the checksums of its files, signed.

The notes are the section of the changelog and one line per file as ``sha256sum`` writes it, so one signature covers
what changed and what is shipped. Signed with ``ssh-keygen``, which needs no network and no service; how to check is
written into the notes.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import click

NAMESPACE = "raytrain-xai-release"  # a signature made for something else does not count as one of a release
_CHANGELOG = Path(__file__).resolve().parents[1] / "CHANGELOG.md"
_HOW = """
## Files

Check that the maintainers signed this text, and that the files are those it names; `allowed_signers` is in the folder
`release/` of the repository, at a commit that you trust:

    ssh-keygen -Y verify -f allowed_signers -I maintainers -n {namespace} -s {name}.sig < {name}
    sha256sum --check {name}
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("version")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--key", required=True, type=click.Path(exists=True, dir_okay=False), help="SSH key of a maintainer.")
def main(version: str, files: tuple[Path, ...], key: str) -> None:
    """Write RELEASE-VERSION.md and its signature beside the first of FILES."""
    notes = files[0].with_name(f"RELEASE-{version}.md")
    if elsewhere := [file for file in files if file.parent != notes.parent]:
        raise click.UsageError(f"{elsewhere[0]} is not in {notes.parent}; put the files of a release into one folder")
    changes = _section(_CHANGELOG.read_text(encoding="utf-8"), version)
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in sorted(files)]
    how = _HOW.format(namespace=NAMESPACE, name=notes.name)
    notes.write_text(f"# raytrain_xai {version}\n\n{changes}\n{how}\n" + "\n".join(sums) + "\n", encoding="utf-8")
    signature = notes.with_name(f"{notes.name}.sig")
    signature.unlink(missing_ok=True)  # ssh-keygen would ask
    done = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-f", key, "-n", NAMESPACE, str(notes)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise click.ClickException(f"ssh-keygen could not sign with {key}: {done.stderr.strip()}")
    click.echo(f"{notes}\n{signature}")


def _section(changelog: str, version: str) -> str:
    """The text below the heading of a version."""
    found = re.search(rf"^## \[?{re.escape(version)}\b.*\n((?:(?!## ).*\n?)*)", changelog, re.M)
    if found is None or not found[1].strip():
        raise click.UsageError(f"{_CHANGELOG.name} has no section {version}; write what changed first")
    return found[1].strip()


if __name__ == "__main__":
    main()
