"""``raytrain-xai insight classify``: pictures compared with texts."""

from __future__ import annotations

from pathlib import Path

import click

from raytrain_xai.cli.insight_labels import label_options, texts_of, vectors_of


@click.command("classify")
@click.argument("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@label_options
@click.option("--classes", default=3, show_default=True, type=click.IntRange(1), help="Best texts taken apart.")
@click.option("--top", default=8, show_default=True, type=click.IntRange(0), help="Concepts shown for a text.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the page and JSON.")
def classify_command(
    run: str, images: tuple[str, ...], labels: tuple[str, ...], vocabulary: str | None, templates: str, classes: int,
    top: int, checkpoint: str, out: Path,
) -> None:  # fmt: skip
    """Compare pictures (files, or all pictures of folders) with texts, by the concepts of RUN."""
    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.report.classify_files import INDEX, PAGE, write_classes
    from raytrain_xai.report.explanation_files import collect_images

    texts = texts_of(labels, vocabulary)
    files = collect_images(images)
    model = load_insight(run, which=checkpoint, device=available_device())
    vectors = vectors_of(model.encoder, texts, templates)
    index = write_classes(model, files, out, labels=texts, vectors=vectors, classes=classes, top=top)
    for image in index["images"]:
        best = ", ".join(f"{found['text']} {image['scores'][found['text']]:.2f}" for found in image["texts"])
        click.echo(f"{image['file']}: {best}")
    click.echo(f"written to {out}: {PAGE}, {INDEX}")
