"""``raytrain-xai annotate``: which images to draw boxes on next, and the boxes that were drawn."""

from __future__ import annotations

import click


@click.group("annotate")
def annotate_group() -> None:
    """Choose images to draw boxes on, and take the boxes back from annotation tools."""
