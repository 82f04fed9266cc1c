"""``raytrain-xai models``: the architectures of the zoo and their weights."""

from __future__ import annotations

import click

from raytrain_xai.cli.models_publish import export_command


@click.group("models")
def models_group() -> None:
    """Architectures and their weights."""


@models_group.command("list")
def list_command() -> None:
    """List every architecture with its kind and the image size of its published training."""
    from raytrain_xai.models.zoo import ARCHITECTURES

    width = max(map(len, ARCHITECTURES))
    for name, architecture in sorted(ARCHITECTURES.items()):
        kind = "B-cos" if architecture.is_bcos else "plain"
        click.echo(f"{name:<{width}}  {kind}  {architecture.image_size} px")


models_group.add_command(export_command)
