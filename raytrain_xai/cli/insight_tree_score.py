"""``raytrain-xai insight tree-score``: does the tree of concepts join what belongs together?"""

from __future__ import annotations

import click

from raytrain_xai.cli.tables import echo_table


@click.command("tree-score")
@click.argument("run")
@click.option("--max-images", default=400, show_default=True, type=click.IntRange(1),
              help="With masks, for the measure of absorption.")  # fmt: skip
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
def tree_score_command(run: str, max_images: int, checkpoint: str) -> None:
    """Score the hierarchy of a described RUN on the masks of its images.

    Relations are compared with the super-categories of COCO; absorption is the evidence for a class that special
    concepts give where the general one is silent.
    """
    from rich.table import Table

    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.insight.tree_score import score_tree
    from raytrain_xai.run_folder import open_run

    at = open_run(run)
    model = load_insight(run, which=checkpoint, device=available_device())
    score = score_tree(at, model, max_images=max_images)
    found = score.hierarchy
    click.echo(
        f"{found.relations} relations between {found.labelled} concepts of a class: {found.same_super:.1%} within a "
        f"super-category (chance {found.chance_super:.1%}), {found.same_class:.1%} within a class (chance "
        f"{found.chance_class:.1%})"
    )
    table = Table("class", "concept", "F1", "absorbed")
    for one in score.classes:
        table.add_row(one.name, model.name(one.main), f"{one.f1:.3f}", f"{one.absorbed:.1%}")
    echo_table(table)
    click.echo(f"{score.absorbed:.1%} of the evidence for a class is absorbed, on {score.images} images")
