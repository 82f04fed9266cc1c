"""``raytrain-xai insight pack``: the head of an alignment run in the form in which the package holds one."""

from __future__ import annotations

import click


@click.command("pack")
@click.argument("run")
@click.argument("dest")
def pack_command(run: str, dest: str) -> None:
    """Write the encoder of RUN (job align) to the folder DEST, as a release ships `embedded`: in half precision."""
    from raytrain_xai.language.aligned import ABOUT, WEIGHTS, pack_encoder
    from raytrain_xai.storage import locate

    pack_encoder(run, locate(dest))
    click.echo(f"{WEIGHTS} and {ABOUT} written to {dest}")
