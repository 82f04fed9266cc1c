"""``raytrain-xai insight score``: what the concepts keep of what their encoder can do."""

from __future__ import annotations

import sys

import click


@click.command("score")
@click.argument("run")
@click.option("--data", required=True, metavar="DEST", help="Prepared data set with labels, best with masks.")
@click.option("--split", default="test", show_default=True)
@click.option("--terms", metavar="TABLE", help="What its classes are called: voc, imagenet or a CSV file.")
@click.option("--rival", "rivals", multiple=True, metavar="TEXT", help="Competes for pixels, never right; repeatable.")
@click.option("--templates", default="plain", show_default=True, metavar="FAMILY", help="Sentences around a term.")
@click.option("--background", default=0.32, show_default=True, type=click.FloatRange(-1, 1),
              help="Cosine below which a pixel is background; choose it on another split.")  # fmt: skip
@click.option("--min-images", default=10, show_default=True, type=click.IntRange(1), help="Rarer classes do not count.")
@click.option("--images", "max_images", type=click.IntRange(1), help="Some of the split; default: all.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--out", metavar="FILE", help="JSON; default: RUN/insight/scores-SPLIT.json.")
def score_command(
    run: str, data: str, split: str, terms: str | None, rivals: tuple[str, ...], templates: str, background: float,
    min_images: int, max_images: int | None, checkpoint: str, out: str | None,
) -> None:  # fmt: skip
    """Rank and segment images by text, with the patches of the encoder of RUN and with those rebuilt from concepts.

    Mean average precision over images, mean intersection over union over the pixels that have a class (miou) and over
    all of them with background as a class (miou_background), and the share of each that the concepts keep.
    """
    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.insight.task_scores import ScorePlan, score_tasks
    from raytrain_xai.report.task_score_files import write_task_scores
    from raytrain_xai.run_folder import open_run
    from raytrain_xai.storage import locate

    target = locate(out) if out else open_run(run).child("insight", f"scores-{split}.json")
    plan = ScorePlan(
        data, split, terms=terms, rivals=rivals, templates=templates, background=background, min_images=min_images,
        max_images=max_images,
    )  # fmt: skip
    model = load_insight(run, which=checkpoint, device=available_device())
    with click.progressbar(length=plan.num_images(), label="images", file=sys.stderr) as bar:
        scores = score_tasks(model, plan, bar.update)
    write_task_scores(target, run, plan, scores)
    click.echo(
        f"{scores.images} images, {scores.masks} with masks, {int(scores.is_counted.sum())} classes; concepts explain "
        f"{100 * scores.variance_explained:.1f} % of the variance with {scores.active:.1f} active at a patch"
    )
    whole, left, kept = scores.means(scores.encoder), scores.means(scores.concepts), scores.kept()
    for name in whole:
        click.echo(
            f"  {name:<16} encoder {whole[name]:.3f}   concepts {left[name]:.3f}   kept {100 * kept[name]:.1f} %"
        )
    click.echo(f"written to {target.uri}")
