"""``raytrain-xai eval``, ``explain`` and ``report``: use trained runs."""

from __future__ import annotations

from pathlib import Path

import click

_CHECKPOINT_HELP = "selected (the one measured at the end), last, or a name such as step-00000120."


@click.command("eval")
@click.argument("run")
@click.option("--data", metavar="DEST", help="Prepared data set; default: the one of the run.")
@click.option("--split", default="test", show_default=True)
@click.option("--checkpoint", default="selected", show_default=True, help=_CHECKPOINT_HELP)
@click.option("--out", metavar="FILE", help="Where the metrics are written as JSON; default: eval/ in the run folder.")
def eval_command(run: str, data: str | None, split: str, checkpoint: str, out: str | None) -> None:
    """Measure RUN on a split of a prepared data set."""
    from raytrain_xai.evaluation import measure_run, write_metrics
    from raytrain_xai.explain import available_device

    measured = measure_run(run, data=data, split=split, which=checkpoint, device=available_device())
    click.echo(f"{run} at {measured.checkpoint}, split {measured.split} of {measured.data}")
    width = max(map(len, measured.metrics))
    for name, value in measured.metrics.items():
        click.echo(f"  {name:<{width}}  {value:.4f}")
    if "epg" in measured.metrics and "iou" not in measured.metrics:
        click.echo("iou is left out: the run has no threshold chosen on validation data")
    click.echo(f"written to {write_metrics(run, measured, out)}")


@click.command("explain")
@click.argument("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for the pictures and explanations.json."
)
@click.option("--class", "names", multiple=True, metavar="NAME", help="Explain this class for every image; repeatable.")
@click.option(
    "--top", type=click.IntRange(min=0), help="Explain the N strongest classes; default: 1, or 0 with --class."
)
@click.option("--checkpoint", default="selected", show_default=True, help=_CHECKPOINT_HELP)
def explain_command(
    run: str, images: tuple[str, ...], out: Path, names: tuple[str, ...], top: int | None, checkpoint: str
) -> None:
    """Explain what RUN sees in pictures (files, or all pictures of folders).

    Nothing is written when a file is not a whole picture; every such file is listed.
    """
    from raytrain_xai.explain import Explainer, available_device
    from raytrain_xai.report.explanation_files import INDEX, collect_images, write_explanations

    files = collect_images(images)
    explainer = Explainer.load(run, which=checkpoint, device=available_device())
    number = top if top is not None else (0 if names else 1)
    index = write_explanations(explainer, files, out, names=names, top=number)
    for image in index["images"]:
        found = ", ".join(f"{e['class']} {e['probability']:.2f}" for e in image["explanations"])
        click.echo(f"{image['file']}: {found}")
    click.echo(f"written to {out / INDEX}")


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--data", metavar="DEST", help="Prepared data set of the pictures; default: that of the first run.")
@click.option(
    "--out", metavar="FILE", help="Page to write; default: RUN/report.html, or ./report.html for several runs."
)
@click.option(
    "--concepts", multiple=True, metavar="RUN", help="Show traces of images by this concept run too; repeatable."
)
def report_command(runs: tuple[str, ...], data: str | None, out: str | None, concepts: tuple[str, ...]) -> None:
    """Compare finished runs on one self-contained HTML page."""
    from raytrain_xai.report.page import write_report

    click.echo(f"written to {write_report(runs, out, data=data, concepts=concepts)}")
