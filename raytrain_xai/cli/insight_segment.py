"""``raytrain-xai insight segment``: pictures divided among texts."""

from __future__ import annotations

from pathlib import Path

import click

from raytrain_xai.cli.insight_labels import label_options, texts_of, vectors_of
from raytrain_xai.errors import ConfigError


@click.command("segment")
@click.argument("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@label_options
@click.option("--background", type=click.FloatRange(-1, 1), metavar="SCORE", help="Below it, a pixel is background.")
@click.option("--background-label", "others", multiple=True, metavar="TEXT", help="Is background; repeatable.")
@click.option("--things", is_flag=True, help="Background is where the encoder finds no thing (dinoclip: encoders).")
@click.option("--window", type=click.IntRange(16), metavar="PX", help="Slide windows of this side by half of it.")
@click.option("--top", default=6, show_default=True, type=click.IntRange(0), help="Concepts shown for a segment.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the page, JSON and labels.")
def segment_command(
    run: str, images: tuple[str, ...], labels: tuple[str, ...], vocabulary: str | None, templates: str,
    background: float | None, others: tuple[str, ...], things: bool, window: int | None, top: int, checkpoint: str,
    out: Path,
) -> None:  # fmt: skip
    """Divide pictures (files, or all pictures of folders) among texts, by the concepts of RUN.

    Every segment tells which concepts its score is the sum of. Without one of the three rules for background, every
    pixel gets a text.
    """
    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.insight.segment import ConstantBackground, ForegroundMask, WordBackground
    from raytrain_xai.insight.windows import Sliding
    from raytrain_xai.report.explanation_files import collect_images
    from raytrain_xai.report.segment_files import INDEX, PAGE, write_segments

    if (background is not None) + bool(others) + things > 1:
        raise ConfigError("give one rule for background: --background, --background-label or --things")
    texts = texts_of(labels, vocabulary)
    files = collect_images(images)
    model = load_insight(run, which=checkpoint, device=available_device())
    rule = ForegroundMask() if things else None
    if background is not None:
        rule = ConstantBackground(background)
    elif others:
        rule = WordBackground(vectors_of(model.encoder, others, templates))
    sliding = None if window is None else Sliding(window, max(1, window // 2))
    vectors = vectors_of(model.encoder, texts, templates)
    index = write_segments(model, files, out, labels=texts, vectors=vectors, background=rule, sliding=sliding, top=top)
    for image in index["images"]:
        shares = ", ".join(f"{found['text']} {100 * found['share']:.0f} %" for found in image["segments"][:5])
        click.echo(f"{image['file']}: {shares or 'background'}")
    click.echo(f"written to {out}: {PAGE}, {INDEX}")
