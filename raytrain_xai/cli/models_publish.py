"""``raytrain-xai models export``, ``publish`` and ``pull``: trained runs on their way to others."""

from __future__ import annotations

import click

_CHECKPOINT_HELP = "selected (the one measured at the end), last, or a name such as step-00000120."


@click.command("export")
@click.argument("run")
@click.argument("out", metavar="OUT.pt2")
@click.option("--checkpoint", default="selected", show_default=True, help=_CHECKPOINT_HELP)
def export_command(run: str, out: str, checkpoint: str) -> None:
    """Write the network of RUN and its explanation as one file that runs with torch alone.

    The file is loaded again and compared with the run before it is written. Load only .pt2 files from people you
    trust: torch.export.load can run code that a foreign file brings.
    """
    from raytrain_xai.export import export_run

    written = export_run(run, out, which=checkpoint)
    click.echo(f"written to {written.uri} ({written.num_bytes / 2**20:.1f} MiB), loaded again and compared")
    click.echo(f"largest deviation from the run: {written.deviation:.1e} of the largest value")
    click.echo(f"sha256 {written.sha256}")


@click.command("publish")
@click.argument("run")
@click.argument("dest")
@click.option("--license", "license_name", required=True, metavar="TEXT", help="Of the weights, e.g. Apache-2.0.")
@click.option(
    "--pictures", type=click.IntRange(min=0, max=48), default=6, show_default=True,
    help="Example heatmaps on the card; these are images of the data set, 0 publishes none.",
)  # fmt: skip
@click.option("--data", metavar="DEST", help="Prepared data set of the pictures; default: the one of the run.")
def publish_command(run: str, dest: str, license_name: str, pictures: int, data: str | None) -> None:
    """Publish the measured network of RUN with a model card at DEST (a new folder or s3:// address).

    DEST is a run folder without optimiser state: eval, explain, report and model.weights take it as it is.
    """
    from raytrain_xai.publish import publish_run

    done = publish_run(run, dest, license_name=license_name, num_pictures=pictures, data=data)
    click.echo(f"{'was there already' if done.was_there else 'published'}: {done.uri}, {done.num_files} files")
    click.echo(f"get it with `raytrain-xai models pull {done.uri} DEST`")


@click.command("pull")
@click.argument("src")
@click.argument("dest")
def pull_command(src: str, dest: str) -> None:
    """Copy the published run SRC to DEST and verify every file (both a folder or s3:// address).

    No run is at DEST before it is complete. The same command continues an interrupted pull.
    """
    from raytrain_xai.publish import pull

    done = pull(src, dest)
    click.echo(f"{'was there already' if done.was_there else 'pulled'}: {done.uri}, {done.num_files} files verified")
    click.echo(f"explain with it: `raytrain-xai explain {done.uri} IMAGE... --out FOLDER`")
