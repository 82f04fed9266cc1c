"""``raytrain-xai concepts import``: a published concept layer as a concept run."""

from __future__ import annotations

import click


@click.command("import")
@click.argument("file")
@click.option("--network", required=True, metavar="RUN|NAME=WEIGHTS", help="The B-cos network the file was made for.")
@click.option("--layer", required=True, metavar="TAP", help="Where its concepts belong; `models info` lists the taps.")
@click.option("--data", metavar="DEST", help="Prepared data set; default: the one of RUN.")
@click.option("--name", required=True, help="Of the concept run to write.")
@click.option("--storage", default="runs", show_default=True, help="Folder or s3:// address of runs.")
@click.option("--image-size", type=click.IntRange(32, 1024), help="Default: that of RUN, 224 with NAME=WEIGHTS.")
@click.option("--eval-resize", type=click.IntRange(32, 2048), help="Shorter side before the central square is cut out.")
def import_command(
    file: str, network: str, layer: str, data: str | None, name: str, storage: str, image_size: int | None,
    eval_resize: int | None,
) -> None:  # fmt: skip
    """Write FILE, a concept layer of FaCT (.pt as published, or .safetensors of `models convert`), as a concept run.

    trace, catalogue and the other commands take it like one that was trained here. What the layer keeps of some
    validation images is printed: nearly nothing means that it belongs to another layer or network.
    """
    from raytrain_xai.concept_runs.importing import import_concepts
    from raytrain_xai.config import parse_concept_config

    config = parse_concept_config({
        "job": "concepts", "name": name, "storage": storage, "network": network, "layer": layer, "data": data,
        "image_size": image_size, "eval_resize": eval_resize,
    })  # fmt: skip
    run, fidelity = import_concepts(file, config)
    click.echo(f"written to {run}")
    click.echo(
        f"some validation images: {100 * fidelity['variance_explained']:.1f} % of the variance explained, "
        f"{fidelity['l0']:.1f} concepts at a position, {fidelity['image_l0']:.0f} in an image"
    )
