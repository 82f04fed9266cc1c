"""``raytrain-xai models bcosify``: a pretrained plain network as the start of a B-cos network."""

from __future__ import annotations

import click


@click.command("bcosify")
@click.argument("name")
@click.argument("out")
@click.option(
    "--data", required=True, metavar="DEST", help="Prepared data set: its classes, and the calibration images."
)
@click.option(
    "--weights", default="imagenet", show_default=True, help="Of the plain network: imagenet, official, a file, a run."
)
@click.option(
    "--images", default=64, show_default=True, type=click.IntRange(min=1), help="Training images that set the gains."
)
@click.option("--image-size", default=224, show_default=True, type=click.IntRange(32, 1024), help="Their side, pixels.")
def bcosify_command(name: str, out: str, data: str, weights: str, images: int, image_size: int) -> None:
    """Write the plain network NAME as a B-cos network to OUT (safetensors).

    Its features resemble those of the plain network only after training: model.name bcosified_NAME, model.weights OUT.
    A configuration with a section bcosify does both in one command, see configs/bcosify.
    """
    from raytrain_xai.bcosification import write_bcosified
    from raytrain_xai.config import BcosifyConfig

    bcosify = BcosifyConfig(weights=weights, calibration_images=images)
    network = write_bcosified(name, out, bcosify, data, image_size)
    click.echo(f"{out}: {network.name}, {network.num_classes} classes; train it before use")
