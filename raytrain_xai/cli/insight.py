"""``raytrain-xai insight``: named concepts of a language-aligned encoder, and what one does with them."""

from __future__ import annotations

import click

from raytrain_xai.cli.insight_caption import caption_command, caption_score_command
from raytrain_xai.cli.insight_classify import classify_command
from raytrain_xai.cli.insight_describe import describe_command
from raytrain_xai.cli.insight_import import import_command
from raytrain_xai.cli.insight_name import name_command
from raytrain_xai.cli.insight_pack import pack_command
from raytrain_xai.cli.insight_probe import probe_command
from raytrain_xai.cli.insight_score import score_command
from raytrain_xai.cli.insight_search import index_command, search_command
from raytrain_xai.cli.insight_segment import segment_command
from raytrain_xai.cli.insight_steer import steer_command
from raytrain_xai.cli.insight_tree_score import tree_score_command


@click.group("insight")
def insight_group() -> None:
    """Concepts of language-aligned encoders: describe, name, segment, classify, search, caption."""


insight_group.add_command(describe_command)
insight_group.add_command(name_command)
insight_group.add_command(caption_command)
insight_group.add_command(caption_score_command)
insight_group.add_command(steer_command)
insight_group.add_command(score_command)
insight_group.add_command(import_command)
insight_group.add_command(segment_command)
insight_group.add_command(classify_command)
insight_group.add_command(index_command)
insight_group.add_command(search_command)
insight_group.add_command(probe_command)
insight_group.add_command(tree_score_command)
insight_group.add_command(pack_command)
