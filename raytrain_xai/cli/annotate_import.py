"""``raytrain-xai annotate import`` and ``annotate order``: what people drew in CVAT or Label Studio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from raytrain_xai.cli.data import image_progress
from raytrain_xai.errors import ConfigError, DataError

if TYPE_CHECKING:
    from raytrain_xai.data.annotation_import import NewBoxes

_FORMAT = click.option(
    "--format", "kind", type=click.Choice(["auto", "coco", "voc"]), default="auto", show_default=True,
    help="auto: by the files.",
)  # fmt: skip
_MAP = click.option(
    "--map", "pairs", multiple=True, metavar="NAME=CLASS", help="A class that the tool calls otherwise; repeatable."
)
_SKIP_BAD = click.option(
    "--skip-bad", is_flag=True, help="Exit with 0 although records were bad; they are listed all the same."
)


@click.command("import")
@click.argument("dataset")
@click.argument("export")
@click.argument("dest")
@_FORMAT
@_MAP
@_SKIP_BAD
@click.option("--overwrite", is_flag=True, help="Replace a finished data set at DEST.")
def import_command(
    dataset: str, export: str, dest: str, kind: str, pairs: tuple[str, ...], skip_bad: bool, overwrite: bool
) -> None:
    """Write DATASET with the boxes of EXPORT to DEST.

    EXPORT is what CVAT (COCO 1.0, PASCAL VOC 1.1) or Label Studio (COCO, Pascal VOC) wrote: a file, a ZIP archive or a
    folder. An image with boxes in it gets these in place of its own; all others stay as they are, also those that are
    listed without boxes, since neither format tells whether anybody looked at them. Outlines and masks become boxes.
    Bad records are listed and left as they were; the exit code is then 2, unless --skip-bad is given.
    """
    from raytrain_xai.data.annotation_import import import_annotations
    from raytrain_xai.data.dataset import open_dataset

    new = _matched(dataset, export, kind, pairs)
    with image_progress(sum(open_dataset(dataset).splits.values())) as advance:
        import_annotations(dataset, new, dest, origin=_last_part(export), overwrite=overwrite, progress=advance)
    counts = {split: list(new.splits.values()).count(split) for split in dict.fromkeys(new.splits.values())}
    shown = ", ".join(f"{count} {split}" for split, count in counts.items())
    click.echo(f"{sum(map(len, new.boxes.values()))} boxes in {shown} images -> {dest}")
    _stop_at_bad(new, skip_bad, f"the others have their boxes in {dest}")


@click.command("order")
@click.argument("dataset")
@click.argument("export")
@click.option("--out", required=True, metavar="ORDER", help="File to write (.json).")
@_FORMAT
@_MAP
@_SKIP_BAD
def order_command(dataset: str, export: str, out: str, kind: str, pairs: tuple[str, ...], skip_bad: bool) -> None:
    """List the training images of DATASET that have boxes in EXPORT, for guidance.annotation_order.

    DATASET is the one that runs will use, as written by `annotate import`. A run then guides on these images alone,
    although others have boxes too; and `annotate suggest --annotated ORDER` suggests other images.
    """
    from raytrain_xai.data.annotation_import import annotated_order
    from raytrain_xai.data.annotation_order import write_order
    from raytrain_xai.data.dataset import open_dataset
    from raytrain_xai.storage import locate

    new = _matched(dataset, export, kind, pairs)
    order = annotated_order(dataset, new)
    write_order(locate(out), order)
    num_annotated, num_images = len(order.ids), open_dataset(dataset).splits["train"]
    fraction = min(1, (num_annotated + 0.5) / num_images)  # half an image more: rounding must not cost one
    click.echo(f"{num_annotated} of {num_images} training images -> {out}; a run guides on exactly these with")
    click.echo(f"  --set guidance.annotation_order={out} --set guidance.annotated_fraction={fraction:.8g}")
    _stop_at_bad(new, skip_bad, f"the others are listed in {out}")


def _matched(dataset: str, export: str, kind: str, pairs: tuple[str, ...]) -> NewBoxes:
    from raytrain_xai.data.annotation_export import read_export
    from raytrain_xai.data.annotation_import import match_export

    names: dict[str, str] = {}
    for pair in pairs:
        name, equals, target = (part.strip() for part in pair.partition("="))
        if not (name and equals and target):
            raise ConfigError(f"--map {pair}: expected NAME=CLASS, the name in the tool and the class of the data set")
        names[name] = target
    exported = read_export(export, "coco" if kind == "coco" else "voc" if kind == "voc" else None)
    new = match_export(dataset, exported, names)
    for note in new.notes:
        click.echo(note)
    for record in new.bad_records:
        click.echo(f"bad record in the {record.split}: {record.file}: {record.reason}", err=True)
    return new


def _last_part(address: str) -> str:
    return address.partition("?")[0].rstrip("/").rpartition("/")[2]


def _stop_at_bad(new: NewBoxes, skip_bad: bool, done: str) -> None:
    if new.bad_records and not skip_bad:
        raise DataError(
            f"{len(new.bad_records)} bad records left out, listed above; {done}: use it as it is, or mend the "
            "annotations and run again (--skip-bad accepts them)"
        )
