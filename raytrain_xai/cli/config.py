"""``raytrain-xai config``: look at configurations before running them."""

from __future__ import annotations

import click

from raytrain_xai.config import dump_config, load_config


@click.group("config")
def config_group() -> None:
    """Look at configurations."""


@config_group.command("show")
@click.argument("config", type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override one value; repeatable.")
def show_command(config: str, overrides: tuple[str, ...]) -> None:
    """Print CONFIG as it would run, with every default filled in."""
    click.echo(dump_config(load_config(config, overrides)), nl=False)
