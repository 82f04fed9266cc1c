"""``raytrain-xai insight caption``: pictures in a sentence, and which concepts speak for each word."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torch import Tensor

decoder_option = click.option(
    "--decoder", default="embedded", show_default=True, metavar="RUN",
    help="Run of `job: caption`; the embedded one is for the embedded encoder.",
)  # fmt: skip


def pixels_of(file: Path) -> Tensor:
    """A picture as (3, H, W) uint8.

    Raises:
        DataError: it cannot be read.
    """
    import numpy as np
    import torch

    from raytrain_xai.report.explanation_files import read_picture

    return torch.from_numpy(np.array(read_picture(file))).permute(2, 0, 1)


@click.command("caption")
@click.argument("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@decoder_option
@click.option("--concepts", default=3, show_default=True, type=click.IntRange(min=0), help="Shown for each word.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with all numbers.")
def caption_command(
    run: str, images: tuple[str, ...], decoder: str, concepts: int, checkpoint: str, as_json: bool
) -> None:
    """Write captions for pictures (files, or all pictures of folders) from the concepts of RUN.

    Below a caption are its words, each with the logarithm of its probability, the same without any concept, and the
    concepts that do most to make the one of the other.
    """
    from raytrain_xai.captioning.reading import load_decoder
    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.captions import caption_images
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.report.explanation_files import collect_images

    files = collect_images(images)
    model = load_insight(run, which=checkpoint, device=available_device())
    writer = load_decoder(decoder, model.encoder)
    for file in files:  # one by one: a folder may hold more than memory
        (caption,) = caption_images(model, writer, pixels_of(file)[None], num_concepts=concepts)
        if as_json:
            click.echo(json.dumps({"file": str(file), **asdict(caption)}))
            continue
        click.echo(f"{file}: {caption.text}")
        for word in caption.words if concepts else ():
            shares = ", ".join(f"{share.name} {share.value:+.2f}" for share in word.shares)
            click.echo(f"    {word.text:<14} {word.log_prob:6.2f} from {word.baseline:6.2f}  {shares}")


@click.command("caption-score")
@click.argument("run")
@click.option("--data", required=True, metavar="DEST", help="Prepared data set with labels.")
@click.option("--split", default="test", show_default=True)
@decoder_option
@click.option("--images", "max_images", type=click.IntRange(min=2), help="At even distances; default: all.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--out", metavar="FILE", help="All numbers and some captions as JSON; folder or s3:// address.")
def caption_score_command(
    run: str, data: str, split: str, decoder: str, max_images: int | None, checkpoint: str, out: str | None
) -> None:
    """Judge captions of a data set: from the patches of the encoder, and from the concepts of RUN.

    Two questions: do captions name the categories that are annotated, and are their vectors near those of the images
    (CLIPScore, with the encoder in the place of CLIP)?
    """
    import sys

    from rich.table import Table

    from raytrain_xai.captioning.reading import load_decoder
    from raytrain_xai.cli.tables import echo_table
    from raytrain_xai.data.dataset import open_dataset
    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.caption_study import study_captions
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.run_folder import write_json
    from raytrain_xai.storage import locate

    total = open_dataset(data).splits.get(split, 0)
    model = load_insight(run, which=checkpoint, device=available_device())
    writer = load_decoder(decoder, model.encoder)
    with click.progressbar(length=min(total, max_images or total), label="images", file=sys.stderr) as bar:
        study = study_captions(model, writer, data, split, max_images=max_images, advance=bar.update)
    table = Table("captions from", *next(iter(study.rows.values())), title=f"{study.images} images, {data} {split}")
    for kind, scores in study.rows.items():
        table.add_row(kind, *(f"{value:.3f}" for value in scores.values()))
    echo_table(table)
    click.echo(f"{study.same:.0%} of the captions are the same from both")
    for example in study.examples:
        click.echo(f"  {', '.join(example['labels'])}: {example['concepts']}")
    if out is not None:
        write_json(locate(out), asdict(study))
