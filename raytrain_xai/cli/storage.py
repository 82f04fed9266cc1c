"""``raytrain-xai storage``: links into buckets, what killed writers left, and whether stored files are whole."""

from __future__ import annotations

import time

import click

from raytrain_xai.errors import DataError


@click.group("storage")
def storage_group() -> None:
    """Look after folders and buckets: links, leftovers, checksums."""


@storage_group.command("link")
@click.argument("address")
@click.option("--hours", type=float, default=24.0, show_default=True, help="Until the link ends, at most 168.")
def link_command(address: str, hours: float) -> None:
    """Make a link that opens the file at the s3:// ADDRESS in a browser, without an account.

    For report pages, pictures and exported models. Whoever has the link can read the file until it ends; nothing takes
    it back earlier but the credentials that signed it. Needs the extra s3.
    """
    from raytrain_xai.storage import exists, locate
    from raytrain_xai.storage.bucket import link_to

    at = locate(address)
    link = link_to(at, hours)
    if not exists(at):
        raise DataError(f"there is no file at {address}; a link to it would open an error")
    click.echo(link)


@storage_group.command("clean")
@click.argument("address")
@click.option(
    "--older-than", "hours", type=click.FloatRange(min=1), default=24.0, show_default=True, metavar="HOURS",
    help="What is younger may be a writer that is alive.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only list it.")
def clean_command(address: str, hours: float, dry_run: bool) -> None:
    """Remove what killed writers left below ADDRESS (a folder or s3:// address).

    On S3: multipart uploads that were never finished, whose parts are stored and paid for but never listed (extra s3).
    On a disk: files and folders named .unfinished-*. Nothing that can be read is touched.
    """
    from raytrain_xai.storage import locate
    from raytrain_xai.storage.folders import delete_tree, leftovers

    at, count = locate(address), 0
    if at.is_local:
        for place, nbytes in leftovers(at, 3600 * hours):
            click.echo(f"{place.uri}: {nbytes} bytes")
            count += 1
            if not dry_run:
                delete_tree(place)
    else:
        count = _clean_bucket(address, hours, dry_run)
    click.echo(f"{count} leftovers older than {hours:g} hours {'found' if dry_run else 'removed'}")


@storage_group.command("verify")
@click.argument("address")
def verify_command(address: str) -> None:
    """Read everything of a run, data set, feature store or teacher's answers at ADDRESS, and compare the checksums.

    The exit code is 2 when a file is damaged or missing; every one is listed.
    """
    from raytrain_xai.storage import locate
    from raytrain_xai.verification import verify

    whole, damaged = 0, 0
    for verdict in verify(locate(address)):
        whole += verdict.problem is None
        if verdict.problem is not None:
            damaged += 1
            click.echo(f"damaged: {verdict.name}: {verdict.problem}", err=True)
    if damaged:
        raise DataError(f"{damaged} of {whole + damaged} parts of {address} are damaged, listed above")
    click.echo(f"{address}: {whole} parts, all as they were written")


def _clean_bucket(address: str, hours: float, dry_run: bool) -> int:
    """Names and ends old uploads; how many there were."""
    from raytrain_xai.storage import locate
    from raytrain_xai.storage.bucket import abort_uploads, unfinished_uploads

    at, count = locate(address), 0
    uploads = unfinished_uploads(at, 3600 * hours)
    for upload in uploads if dry_run else abort_uploads(at, uploads):
        click.echo(f"{upload.name}: begun {time.strftime('%Y-%m-%d %H:%M', time.gmtime(upload.begun))} UTC")
        count += 1
    return count
