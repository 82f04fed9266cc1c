"""``raytrain-xai localise``: how well attributions localise, by the grid pointing game."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from raytrain_xai.localisation.benchmark import Plan, Result


@click.command("localise")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", metavar="DEST", help="Prepared data set; default: the one of the first run.")
@click.option("--split", default="test", show_default=True)
@click.option("--grid", "side", type=click.Choice(["2", "3"]), default="2", show_default=True, help="Tiles per side.")
@click.option("--method", "texts", multiple=True, metavar="NAME[@LAYER]", help="Repeatable; default: a model's own.")
@click.option(
    "--mosaics", "max_grids", type=click.IntRange(min=1), default=500, show_default=True, help="At most, per model."
)
@click.option(
    "--min-probability", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True,
    help="Of an image's class; 0: every image classified correctly.",
)  # fmt: skip
@click.option("--tile-size", type=click.IntRange(min=8), help="Pixels; default: the model's training images.")
@click.option("--smooth", type=click.IntRange(min=0), default=0, show_default=True, help="Odd window in pixels.")
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True, help="Of the classes drawn.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the runs; see eval.")
@click.option("--out", required=True, metavar="DIR", help="Folder for localisation.json, .html and .png.")
def localise_command(
    models: tuple[str, ...], data: str | None, split: str, side: str, texts: tuple[str, ...], max_grids: int,
    min_probability: float, tile_size: int | None, smooth: int, seed: int, checkpoint: str, out: str,
) -> None:  # fmt: skip
    """Measure how well attributions localise, on mosaics of images with different classes.

    MODEL is a run folder, or NAME=WEIGHTS for an architecture of the zoo (squeezenet1_1=imagenet). A method that does
    not fit a model is left out there and named. Methods: bcos, ixg, gradcam, intgrad (any LAYER), rise, and from the
    extra "benchmark" occlusion, lime, gradient, guided_backprop, deeplift.
    """
    from raytrain_xai.data.dataset import open_dataset
    from raytrain_xai.explain import available_device
    from raytrain_xai.localisation.benchmark import Protocol, draw_mosaics, plan_methods, play
    from raytrain_xai.localisation.methods import parse_method
    from raytrain_xai.localisation.subject import load_subjects
    from raytrain_xai.report.localisation import INDEX, PAGE, PICTURE, write_localisation
    from raytrain_xai.storage import locate

    if smooth and smooth % 2 == 0:
        raise ConfigError(f"--smooth must be odd, so that the window has a centre, got {smooth}")
    folder = locate(out)
    methods = [parse_method(text) for text in texts]
    subjects, path = load_subjects(models, data, which=checkpoint, device=available_device())
    plans = plan_methods(subjects, methods)
    protocol = Protocol(path, split, int(side), max_grids, min_probability, tile_size, smooth, seed)
    drawn = [draw_mosaics(subject, protocol) for subject in subjects]
    results: list[Result] = []
    for subject, own, plan in zip(subjects, drawn, plans, strict=True):
        with click.progressbar(length=len(own.grids.images), label=subject.label, file=sys.stderr) as bar:
            results.append(play(subject, own, plan.methods, protocol, bar.update))
        _echo(results[-1], plan)
    write_localisation(folder, protocol, list(zip(results, plans, strict=True)), open_dataset(path).classes)
    click.echo(f"chance {1 / protocol.num_tiles:.3f}; written to {out}: {INDEX}, {PAGE}, {PICTURE}")


def _echo(result: Result, plan: Plan) -> None:
    from raytrain_xai.report.localisation import summarise_shares

    click.echo(f"{result.label}: {len(result.ids)} mosaics of {result.drawn.num_usable} usable images")
    for score in result.scores:
        summary = summarise_shares(score.shares)
        click.echo(f"  {score.method!s:<24} {summary.mean:.3f}  median {summary.quantiles[2]:.3f}")
    for method, reason in plan.skipped.items():
        click.echo(f"  {method:<24} left out: {reason}")
