"""``raytrain-xai concepts``: what a concept run is made of, and how good it is."""

from __future__ import annotations

import click

from raytrain_xai.cli.concepts_c2 import c2_command, c2_files_command
from raytrain_xai.cli.concepts_deletion import deletion_command
from raytrain_xai.cli.concepts_features import features_command
from raytrain_xai.cli.concepts_import import import_command
from raytrain_xai.cli.concepts_names import names_command


@click.group("concepts")
def concepts_group() -> None:
    """Features, names and scores of concept runs."""


concepts_group.add_command(features_command)
concepts_group.add_command(import_command)
concepts_group.add_command(deletion_command)
concepts_group.add_command(names_command)
concepts_group.add_command(c2_command)
concepts_group.add_command(c2_files_command)
