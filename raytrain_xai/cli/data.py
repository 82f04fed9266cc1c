"""``raytrain-xai data``: write data sets in the stored form, and look at them."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from raytrain_xai.cli.tables import echo_table
from raytrain_xai.data.sources import KINDS, read_source
from raytrain_xai.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

    from raytrain_xai.data.info import DatasetReport
    from raytrain_xai.data.manifest import Manifest
    from raytrain_xai.data.prepare import Progress
    from raytrain_xai.data.records import Option


@click.group("data")
def data_group() -> None:
    """Prepare data sets and look at them."""


@data_group.command("prepare")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("places", nargs=-1, required=True, metavar="[SRC] DEST")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of divisions and scenes.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one per core, 8 at most]")
@click.option("--shard-rows", type=click.IntRange(min=1), default=512, show_default=True, help="Images per file.")
@click.option("--min-images", type=click.IntRange(min=1), help="Drop classes with fewer training images.")
@click.option("--skip-bad", is_flag=True, help="Exit with 0 although records were bad; they are listed all the same.")
@click.option("--overwrite", is_flag=True, help="Replace a finished data set at DEST.")
@click.option("--images", "num_train", type=click.IntRange(min=8), help="Scenes: training images.  [default: 800]")
@click.option("--image-size", "size", type=click.IntRange(32, 1024), help="Scenes: side in pixels.  [default: 128]")
@click.option("--correlation", type=click.FloatRange(0, 1), help="scenes-birds: bird and ground.  [default: 0.95]")
@click.option("--label-column", help="table: column with the class of an image.  [default: label]")
@click.option("--unseen", is_flag=True, default=None, help="Scenes: test shows objects and grounds of its own.")
def prepare_command(
    kind: str, places: tuple[str, ...], seed: int, workers: int | None, shard_rows: int, min_images: int | None,
    skip_bad: bool, overwrite: bool, **kind_options: Option,
) -> None:  # fmt: skip
    """Write a data set to DEST (folder or s3://), from the folder SRC that you have.

    SRC is VOCdevkit, the COCO root, the Waterbirds folder, a folder of class folders, a CSV table of images, or a
    model's folder of flagged images (feedback; s3:// as well); the scenes kinds need none.
    An interrupted run continues when it is started again. Bad records are listed and left out; the exit code is
    then 2, unless --skip-bad is given.
    """
    from raytrain_xai.data.prepare import prepare, select_classes

    if len(places) > 2:
        raise ConfigError(f"expected [SRC] DEST, got {len(places)} places: {' '.join(places)}")
    src, dest = (None, *places)[-2:]
    assert dest is not None
    given = {name: value for name, value in kind_options.items() if value is not None}
    source = read_source(kind, src, seed, given)
    if min_images is not None:
        source = select_classes(source, min_images)
    for note in source.notes:
        click.echo(note)
    with image_progress(sum(map(len, source.splits.values()))) as advance:
        manifest = prepare(
            source, dest, workers=workers or min(os.cpu_count() or 1, 8), shard_rows=shard_rows,
            overwrite=overwrite, progress=advance,
        )  # fmt: skip
    _echo_result(manifest, dest)
    if manifest.bad_records and not skip_bad:
        raise DataError(
            f"{len(manifest.bad_records)} bad records left out, listed above; the others are ready at {dest}: "
            "use them as they are, or mend the files and run again with --overwrite (--skip-bad accepts them)"
        )


@data_group.command("merge")
@click.argument("first")
@click.argument("second")
@click.argument("dest")
@click.option("--skip-bad", is_flag=True, help="Exit with 0 although images of SECOND were left out.")
@click.option("--overwrite", is_flag=True, help="Replace a finished data set at DEST.")
def merge_command(first: str, second: str, dest: str, skip_bad: bool, overwrite: bool) -> None:
    """Write the images of two data sets of the same classes to DEST, each in its split.

    Images of SECOND that FIRST holds already, in whatever split, are listed and left out; the exit code is then 2,
    unless --skip-bad is given.
    """
    from raytrain_xai.data.dataset import open_dataset
    from raytrain_xai.data.merge import merge_datasets

    with image_progress(sum(sum(open_dataset(place).splits.values()) for place in (first, second))) as advance:
        merged = merge_datasets(first, second, dest, overwrite=overwrite, progress=advance)
    for record in merged.left_out:
        click.echo(f"left out of {record.split}: {record.file}: {record.reason}", err=True)
    _echo_counts(merged.manifest, dest)
    if merged.left_out and not skip_bad:
        raise DataError(
            f"{len(merged.left_out)} images of {second} left out, listed above; the others are ready at {dest} "
            "(--skip-bad accepts this)"
        )


@data_group.command("info")
@click.argument("dest")
@click.option("--out", type=click.Path(dir_okay=False), help="Write a contact sheet with boxes drawn (PNG).")
@click.option("--split", default="train", show_default=True, help="Of the contact sheet.")
@click.option("--count", type=click.IntRange(1, 600), default=36, show_default=True, help="Images on the sheet.")
def info_command(dest: str, out: str | None, split: str, count: int) -> None:
    """Count classes, groups and boxes of the data set at DEST."""
    from raytrain_xai.data.info import contact_sheet, inspect_dataset
    from raytrain_xai.storage import locate, write_bytes

    report = inspect_dataset(dest)
    info, manifest = report.info, report.manifest
    click.echo(f"{info.kind}: {info.task}, {len(info.classes)} classes, fingerprint {info.fingerprint[:12]}")
    if manifest.options:
        click.echo("options: " + ", ".join(f"{name}={value}" for name, value in manifest.options.items()))
    for table in (_split_table(report), _class_table(report), *([_group_table(report)] if info.groups else [])):
        echo_table(table)
    click.echo(f"{manifest.dropped_boxes} boxes thinner than a pixel dropped, {len(manifest.bad_records)} bad records")
    if out is not None:
        write_bytes(locate(out), contact_sheet(dest, split, count))
        click.echo(f"wrote {out}")


@contextmanager
def image_progress(total: int) -> Generator[Progress]:
    """A bar on stderr, only when that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=total)
        yield lambda count: bar.advance(task, count)


def _echo_result(manifest: Manifest, dest: str) -> None:
    for record in manifest.bad_records:
        click.echo(f"bad record in {record.split}: {record.file}: {record.reason}", err=True)
    if manifest.dropped_boxes:
        click.echo(f"{manifest.dropped_boxes} boxes thinner than a pixel dropped")
    _echo_counts(manifest, dest)


def _echo_counts(manifest: Manifest, dest: str) -> None:
    counts = ", ".join(f"{manifest.rows(split)} {split}" for split in manifest.splits)
    click.echo(f"{manifest.kind}: {counts}, {len(manifest.classes)} classes -> {dest}")


def _split_table(report: DatasetReport) -> Table:
    columns = ["split", "images", "boxes", "masks", "boxes/image", "box share 5/50/95 %", "median size"]
    rows = [
        [
            name, str(s.images), str(s.boxes), str(s.masks), f"{s.boxes_per_image:.2f}",
            " / ".join(f"{share:.3f}" for share in s.box_share), f"{s.image_size[0]} x {s.image_size[1]}",
        ]
        for name, s in report.splits.items()
    ]  # fmt: skip
    return _table(columns, rows)


def _class_table(report: DatasetReport) -> Table:
    columns = ["class", *(f"{split} {what}" for split in report.splits for what in ("images", "boxes"))]
    rows = [
        [name, *(str(n[k]) for s in report.splits.values() for n in (s.images_per_class, s.boxes_per_class))]
        for k, name in enumerate(report.info.classes)
    ]
    return _table(columns, rows)


def _group_table(report: DatasetReport) -> Table:
    rows = [
        [name, *(str(s.images_per_group[k]) for s in report.splits.values())]
        for k, name in enumerate(report.info.groups or ())
    ]
    return _table(["group", *report.splits], rows)


def _table(columns: list[str], rows: list[list[str]]) -> Table:
    from rich.table import Table

    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table
