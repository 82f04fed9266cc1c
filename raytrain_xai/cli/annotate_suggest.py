"""``raytrain-xai annotate suggest``: which training images to draw boxes on next."""

from __future__ import annotations

import sys
from typing import cast, get_args

import click

from raytrain_xai.sections import StrategyName


@click.command("suggest")
@click.argument("run")
@click.option("--strategy", type=click.Choice(get_args(StrategyName)), required=True)
@click.option("--budget", type=click.IntRange(min=1), required=True, help="Images to choose.")
@click.option("--out", required=True, metavar="DIR", help="Folder (or s3://) for the list, images and task files.")
@click.option(
    "--annotated", "orders", multiple=True, metavar="ORDER",
    help="An order.json whose images have boxes already: left out, and counted as covered; repeatable.",
)  # fmt: skip
@click.option("--data", metavar="DEST", help="Prepared data set; default: the one RUN learned from.")
@click.option("--predictions", is_flag=True, help="Give Label Studio a box around each explanation to start from.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of draws and among equals.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
def suggest_command(
    run: str, strategy: str, budget: int, out: str, orders: tuple[str, ...], data: str | None, predictions: bool,
    seed: int, checkpoint: str,
) -> None:  # fmt: skip
    """Choose training images to draw boxes on, with the help of RUN.

    DIR gets order.json (for guidance.annotation_order and --annotated), suggestions.html with the first images and what
    to do, the images, and task files for CVAT and Label Studio. Strategies: random; class_balanced (classes take
    turns); lowest_confidence (in a class the image shows); attribution_entropy (explanations spread all over);
    disagreement (two explanations name different places); k_centre (coverage of the feature space).
    """
    from raytrain_xai.annotation.asked import ask
    from raytrain_xai.annotation.suggest import UNMEASURED, suggest
    from raytrain_xai.config import parse_config
    from raytrain_xai.data.annotation_order import read_order
    from raytrain_xai.data.dataset import StoredSplit
    from raytrain_xai.explain import available_device
    from raytrain_xai.report.suggestions import ORDER, PAGE, check_is_free, write_suggestions
    from raytrain_xai.run_folder import open_run, read_config
    from raytrain_xai.storage import locate

    folder, device = locate(out), available_device()
    check_is_free(folder)
    path = data or parse_config(read_config(open_run(run)), source=run).data.path
    stored = StoredSplit(path, "train")
    annotated = list(dict.fromkeys(name for order in orders for name in read_order(locate(order)).ids))
    length = 0 if strategy in UNMEASURED else len(stored)
    with click.progressbar(length=length, label="images", file=sys.stderr, hidden=not length) as bar:
        order = suggest(
            run, strategy=cast("StrategyName", strategy), seed=seed, budget=budget, annotated=annotated, data=path,
            which=checkpoint, device=device, progress=bar.update,
        )  # fmt: skip
    asked = ask(run, stored, which=checkpoint, device=device)
    write_suggestions(folder, order, asked, stored, with_boxes=predictions)
    click.echo(f"{budget} of {len(stored) - len(annotated)} images by {strategy} written to {out}: {PAGE}, {ORDER}")
