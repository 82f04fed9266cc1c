"""``raytrain-xai annotate``: which images to draw boxes on next, and the boxes that were drawn."""

from __future__ import annotations

import click

from raytrain_xai.cli.annotate_import import import_command, order_command
from raytrain_xai.cli.annotate_suggest import suggest_command


@click.group("annotate")
def annotate_group() -> None:
    """Choose images to draw boxes on, and take the boxes back from annotation tools."""


annotate_group.add_command(suggest_command)
annotate_group.add_command(import_command)
annotate_group.add_command(order_command)
