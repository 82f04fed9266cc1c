"""``raytrain-xai tune``: sweeps over the configuration of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from raytrain_xai.cli.crew import address_option
from raytrain_xai.cli.tables import echo_table
from raytrain_xai.errors import ConfigError, RunError

if TYPE_CHECKING:
    from raytrain_xai.sweeps.table import Sweep, TrialRow

_LISTED = 12  # trials in the table at the end; all of them are in the report


class _RunByDefault(click.Group):
    """``tune CONFIG`` is ``tune run CONFIG``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("tune", cls=_RunByDefault)
def tune_group() -> None:
    """Train many runs over values of any configuration field: tune CONFIG, or tune --resume SWEEP."""


@tune_group.command("run")
@click.argument("config", type=click.Path(), required=False)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override one value of CONFIG; repeatable.")
@click.option("--resume", metavar="SWEEP", help="Go on with a sweep, a folder or s3://, and try failed trials again.")
@click.option("--concurrent", type=click.IntRange(min=1), help="Trials at a time.  [default: what the cluster holds]")
@address_option
@click.pass_context
def run_command(
    context: click.Context, config: str | None, overrides: tuple[str, ...], resume: str | None,
    concurrent: int | None, address: str,
) -> None:  # fmt: skip
    """Train the sweep described by CONFIG; "run" can be left out."""
    if (config is None) == (resume is None):
        raise ConfigError("give either the CONFIG of a sweep, or --resume SWEEP")
    if resume is not None and overrides:
        raise ConfigError("--set does not go with --resume: a sweep is what it was started as; start another one")
    from raytrain_xai.sweeps.load import load_sweep

    loaded = None if config is None else load_sweep(config, _with_concurrent(overrides, concurrent))
    from raytrain_xai.runners.job import Launch  # imports torch
    from raytrain_xai.runners.sweep_display import live_sweep
    from raytrain_xai.runners.tune import resume_sweep, start_sweep

    with live_sweep(lambda line: click.echo(line, err=True)) as show:
        launch = Launch(address, show, debug=context.find_root().params["debug"])
        if loaded is not None:
            sweep = start_sweep(loaded, launch)
        else:
            assert resume is not None
            sweep = resume_sweep(resume, launch, concurrent=concurrent)
    _conclude(sweep)


@tune_group.command("report")
@click.argument("sweep")
@click.option("--out", type=click.Path(), help="File or s3:// address.  [default: report.html in SWEEP]")
def report_command(sweep: str, out: str | None) -> None:
    """Gather the results of SWEEP as they are now, and write its report."""
    from raytrain_xai.report.sweep_page import write_sweep_report
    from raytrain_xai.sweeps.gather import update_results

    click.echo(f"report: {write_sweep_report(update_results(sweep), out)}")


@tune_group.command("export")
@click.argument("sweep")
@click.argument("places", nargs=-1, required=True, metavar="[TRIAL] DEST")
@click.option("--best", metavar="METRIC", help="The finished trial with the best METRIC in validation.")
def export_command(sweep: str, places: tuple[str, ...], best: str | None) -> None:
    """Copy the run of a trial of SWEEP to DEST (folder or s3://), where serve and every other command take it."""
    from raytrain_xai.sweeps.export import best_trial, export_trial

    if len(places) != (2 if best is None else 1):
        raise ConfigError("give TRIAL DEST, or --best METRIC DEST")
    trial = places[0] if best is None else best_trial(sweep, best)
    click.echo(f"{trial} -> {export_trial(sweep, trial, places[-1])}")


def _with_concurrent(overrides: Sequence[str], concurrent: int | None) -> list[str]:
    return [*overrides, *([] if concurrent is None else [f"concurrent={concurrent}"])]


def _conclude(sweep: Sweep) -> None:
    """Print what came out and write the report; the trials themselves are safe by now."""
    _echo_rows(sweep)
    click.echo(f"sweep: {sweep.at.uri}")
    from raytrain_xai.report.sweep_page import write_sweep_report

    try:
        page = write_sweep_report(sweep)
    except Exception as error:
        raise RunError(
            f"{sweep.at.uri} is trained and measured, but its report could not be written "
            f"({type(error).__name__}: {error}); try `raytrain-xai tune report {sweep.at.uri}`"
        ) from error
    click.echo(f"report: {page}")


def _echo_rows(sweep: Sweep) -> None:
    from rich.table import Table

    from raytrain_xai.sweeps.plan import describe_values

    [first, *_], metrics = sweep.config.objectives.items(), list(sweep.config.objectives)
    sign = -1.0 if first[1] == "max" else 1.0
    trials = [row for row in sweep.rows if not row.is_baseline and row.status != "failed" and first[0] in row.val]
    trials.sort(key=lambda row: sign * row.val[first[0]])
    table = Table(title=f"best by {first[0]} (validation)", title_justify="left")
    for column in ("trial", "values", "seed", *metrics, "status"):
        table.add_column(column, justify="right" if column in (*metrics, "seed") else "left")
    for row in [*(row for row in sweep.rows if row.is_baseline), *trials[:_LISTED]]:
        numbers = [f"{row.val[name]:.3f}" if name in row.val else "" for name in metrics]
        values = describe_values(row.values) if row.values else "baseline"
        table.add_row(row.id, _with_strategy(row, values), str(row.seed), *numbers, row.status)
    echo_table(table)
    if len(trials) > _LISTED:
        click.echo(f"and {len(trials) - _LISTED} more")
    for row in sweep.rows:
        if row.status == "failed":
            click.echo(f"failed: {row.id} ({describe_values(row.values)}): {row.error}")


def _with_strategy(row: TrialRow, values: str) -> str:
    return values if row.strategy is None else f"{values}, strategy={row.strategy}"
