"""``raytrain-xai models export``, ``publish`` and ``pull``: trained runs on their way to others."""

from __future__ import annotations

import click

_CHECKPOINT_HELP = "selected (the one measured at the end), last, or a name such as step-00000120."


@click.command("export")
@click.argument("run")
@click.argument("out", metavar="OUT.pt2")
@click.option("--checkpoint", default="selected", show_default=True, help=_CHECKPOINT_HELP)
def export_command(run: str, out: str, checkpoint: str) -> None:
    """Write the network of RUN and its explanation as one file that runs with torch alone.

    The file is loaded again and compared with the run before it is written. Load only .pt2 files from people you
    trust: torch.export.load can run code that a foreign file brings.
    """
    from raytrain_xai.export import export_run

    written = export_run(run, out, which=checkpoint)
    click.echo(f"written to {written.uri} ({written.num_bytes / 2**20:.1f} MiB), loaded again and compared")
    click.echo(f"largest deviation from the run: {written.deviation:.1e} of the largest value")
    click.echo(f"sha256 {written.sha256}")
