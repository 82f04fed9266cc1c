"""``raytrain-xai insight import``: a published dictionary as a concept run."""

from __future__ import annotations

import click


@click.command("import")
@click.argument("folder")
@click.argument("run")
@click.option("--encoder", required=True, help="What it was trained on, such as dinoclip:ViT-B-16=WEIGHTS@last.pt.")
@click.option("--data", multiple=True, metavar="DEST", help="Prepared data set to try it on; repeatable.")
@click.option("--image-size", type=click.IntRange(16, 2048), help="Side of images, pixels; default: of the encoder.")
@click.option("--eval-resize", type=click.IntRange(16, 4096), help="Shorter side before the central square is cut out.")
def import_command(
    folder: str, run: str, encoder: str, data: tuple[str, ...], image_size: int | None, eval_resize: int | None
) -> None:
    """Write FOLDER, a dictionary of Insight / CFM (ae.pt, concept_names.txt, C.pth, D.pth), as the concept run RUN.

    The other commands take it like one that was trained here. With data, what it keeps of some validation images is
    printed: nearly nothing means that it belongs to another encoder.
    """
    from raytrain_xai.config import parse_insight_config
    from raytrain_xai.insight.importing import import_cfm
    from raytrain_xai.report.tree_page import write_hierarchy
    from raytrain_xai.run_folder import storage_and_name
    from raytrain_xai.storage import locate

    storage, name = storage_and_name(locate(run))
    config = parse_insight_config({
        "job": "concepts", "name": name, "storage": storage, "encoder": encoder, "data": list(data),
        "image_size": image_size, "eval_resize": eval_resize,
    })  # fmt: skip
    imported = import_cfm(folder, config)
    click.echo(f"written to {imported.run.uri}: {imported.concepts} concepts, {imported.named} with a name")
    if imported.kept is not None:
        kept = imported.kept
        click.echo(
            f"some validation images: {100 * kept['variance_explained']:.1f} % of the variance explained, "
            f"{kept['l0']:.1f} concepts at a patch"
        )
    if imported.is_related:
        click.echo(write_hierarchy(imported.run))
