"""``raytrain-xai concepts deletion``: do the most important concepts matter most?"""

from __future__ import annotations

import sys

import click


@click.command("deletion")
@click.argument("run")
@click.option("--data", metavar="DEST", help="Prepared data set; default: the one the concepts were trained on.")
@click.option("--split", default="test", show_default=True)
@click.option("--images", default=100, show_default=True, type=click.IntRange(min=1), help="Drawn at random.")
@click.option(
    "--measure", "measures", multiple=True, default=("contribution", "saliency", "random"), show_default=True,
    metavar="NAME", help="contribution, saliency, random or sobol (hundreds of runs for an image); repeatable.",
)  # fmt: skip
@click.option(
    "--protect", type=click.FloatRange(0, 1), metavar="SHARE", help="Never delete concepts active in more images."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--out", required=True, metavar="DIR", help="Folder for deletion.json and deletion.png.")
def deletion_command(
    run: str, data: str | None, split: str, images: int, measures: tuple[str, ...], protect: float | None, seed: int,
    checkpoint: str, out: str,
) -> None:  # fmt: skip
    """Delete the concepts of RUN in the order of several measures of importance, and watch the logit fall.

    The network above the concept layer runs again for every deletion: the curves are exact. The logit of the class
    that is predicted with all concepts is followed; a lower area under its curve is a better order.
    """
    from raytrain_xai.concept_runs.deletion import DeletionPlan, study_deletion
    from raytrain_xai.concept_runs.model import load_concepts
    from raytrain_xai.explain import available_device
    from raytrain_xai.report.deletion import INDEX, PICTURE, write_deletion
    from raytrain_xai.storage import locate

    folder = locate(out)
    model = load_concepts([run], which=checkpoint, device=available_device())
    plan = DeletionPlan(split, images, tuple(dict.fromkeys(measures)), protect, seed, data)
    with click.progressbar(length=images, label="images", file=sys.stderr) as bar:
        study = study_deletion(model, plan, bar.update)
    write_deletion(folder, study)
    click.echo(f"{study.images} images, {len(study.protected)} concepts protected")
    for name, curve in study.curves.items():
        means = (curve.logit / curve.images).tolist()
        logits = "  ".join(f"{n}: {z:.2f}" for n, z in zip(curve.deleted, means, strict=True))
        click.echo(f"  {name:<14} area {curve.area:6.3f}   {logits}")
    click.echo(f"written to {out}: {INDEX}, {PICTURE}")
