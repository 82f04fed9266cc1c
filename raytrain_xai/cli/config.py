"""``raytrain-xai config``: look at configurations before running them."""

from __future__ import annotations

import click

from raytrain_xai.config import dump_config, load_job
from raytrain_xai.config_text import is_sweep


@click.group("config")
def config_group() -> None:
    """Look at configurations."""


@config_group.command("show")
@click.argument("config", type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override one value; repeatable.")
def show_command(config: str, overrides: tuple[str, ...]) -> None:
    """Print CONFIG, of a run or a sweep, as it would run, with every default filled in."""
    if is_sweep(config):
        from raytrain_xai.sweeps.load import load_sweep  # imports torch

        click.echo(dump_config(load_sweep(config, overrides)), nl=False)
    else:
        click.echo(dump_config(load_job(config, overrides)), nl=False)
