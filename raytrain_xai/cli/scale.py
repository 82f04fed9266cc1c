"""``raytrain-xai scale``: how a job would run on many devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from raytrain_xai.scaling.forecast import Forecast
    from raytrain_xai.scaling_config import ScalingValues

_HOUR_S = 3600


@click.command("scale")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override one value in all FILES; repeatable.")
@click.option("--devices", metavar="N,N,...", help="Sizes to look at; 1, 2, 4 ... 1024 without.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also a picture (PNG).")
def scale_command(files: tuple[str, ...], overrides: tuple[str, ...], devices: str | None, out: Path | None) -> None:
    """Foresee the jobs of FILES on many devices: rate, efficiency, and what takes the time.

    Numbers come from a model (docs/scaling.md), from values that you measured on one device. Nothing is started.
    """
    from raytrain_xai.scaling.forecast import SIZES, forecast
    from raytrain_xai.scaling_config import load_scaling

    sizes = SIZES if devices is None else _sizes(devices)
    jobs: dict[str, list[Forecast]] = {}
    for file in files:
        values = load_scaling(file, overrides)
        forecasts = [forecast(values, size) for size in sizes]
        jobs[Path(file).stem.replace("_", " ")] = forecasts
        _echo_job(file, values, forecasts)
    if out is not None:
        from raytrain_xai.report.scaling_chart import scaling_png
        from raytrain_xai.storage import locate, write_bytes

        write_bytes(locate(str(out)), scaling_png(jobs))
        click.echo(out)


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"--devices {text!r} is no list of numbers; give for example 1,8,64") from error
    if sizes[0] < 1:
        raise ConfigError(f"--devices {text!r}: there is no run on {sizes[0]} devices; give for example 1,8,64")
    return sizes


def _echo_job(file: str, values: ScalingValues, forecasts: Sequence[Forecast]) -> None:
    lasts = "" if values.index is None else f"{values.epochs} epochs, h"
    click.echo(file)
    heading = f"{'devices':>8} {'samples/s':>10} {'efficiency':>10} {'step ms':>9} {'all-reduce ms':>13} {lasts:>13}"
    click.echo(f"{heading}  largest loss")
    for one in forecasts:
        loss = f"{one.bottleneck} {100 * one.losses[one.bottleneck]:.0f} %" if one.efficiency < 0.995 else "none"
        click.echo(
            f"{one.devices:8} {one.samples_per_s:10.0f} {100 * one.efficiency:8.0f} % {1e3 * one.step_s:9.1f} "
            f"{1e3 * one.reduce_s:13.1f} {_hours(values, one):>13}  {loss}"
        )
    if values.index is not None:
        _echo_index(values)


def _hours(values: ScalingValues, one: Forecast) -> str:
    if values.index is None:
        return ""
    if one.samples_per_s == 0:
        return "never"
    return f"{values.epochs * values.index.images / one.samples_per_s / _HOUR_S:.1f}"


def _echo_index(values: ScalingValues) -> None:
    from raytrain_xai.scaling.index import index_cost

    assert values.index is not None
    cost = index_cost(values.index, values.hardware.devices_per_node)
    click.echo(
        f"index of {values.index.images:,} images: {cost.files:,} files, manifest {cost.manifest_bytes / 1e6:.1f} MB, "
        f"{cost.worker_bytes / 1e9:.1f} GB per worker ({cost.node_bytes / 1e9:.1f} GB per node), "
        f"{cost.open_s:.0f} s to open from disk, {cost.open_remote_s:.0f} s from S3"
    )
    for advice in cost.advice:
        click.echo(f"  {advice}")
