"""``raytrain-xai concepts``: what a concept run is made of, and how good it is."""

from __future__ import annotations

import click

from raytrain_xai.cli.concepts_deletion import deletion_command


@click.group("concepts")
def concepts_group() -> None:
    """Features, names and scores of concept runs."""


concepts_group.add_command(deletion_command)
