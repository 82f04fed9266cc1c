"""``raytrain-xai drift``: whether the concepts of served images are still those of training."""

from __future__ import annotations

import time

import click

from raytrain_xai.errors import RunError


@click.command("drift")
@click.argument("run")
@click.option("--store", required=True, metavar="DIR", help="monitor.store of the service, a folder or s3:// address.")
@click.option("--model", required=True, metavar="NAME", help="Name under which the service offers RUN.")
@click.option("--version", default="1", show_default=True, help="Its version there.")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), default=24.0, show_default=True)
@click.option("--max-shifted", type=click.IntRange(min=0), help="Fail when more concepts than that have shifted.")
def drift_command(run: str, store: str, model: str, version: str, hours: float, max_shifted: int | None) -> None:
    """Compare what a service has answered lately with the catalogue of the concept run RUN.

    For nightly jobs: asks the stored windows, not the service.
    """
    from raytrain_xai.monitoring.drift import ENOUGH_IMAGES
    from raytrain_xai.monitoring.monitor import DriftMonitor
    from raytrain_xai.monitoring.windows import StoredWindows
    from raytrain_xai.storage import locate

    monitor = DriftMonitor({(model, version): run}, StoredWindows(locate(store), "drift"), window_s=1)
    report = monitor.report(model, version, since=time.time() - 3600 * hours)
    click.echo(
        f"{report.images} traced images, {report.shifted} of {len(report.frequency_then)} concepts shifted, "
        f"largest index {report.max_psi:.2f}"
    )
    if report.images < ENOUGH_IMAGES:
        click.echo(f"fewer than {ENOUGH_IMAGES} images: too few to tell")
    elif max_shifted is not None and report.shifted > max_shifted:
        raise RunError(
            f"{report.shifted} concepts of {model} shifted, allowed are {max_shifted}; look at its concepts, and "
            "train on what is served now"
        )
