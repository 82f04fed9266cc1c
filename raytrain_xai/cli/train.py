"""``raytrain-xai train`` and ``raytrain-xai resume``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from raytrain_xai.cli.crew import address_option
from raytrain_xai.cli.progress import live_progress
from raytrain_xai.config import load_job
from raytrain_xai.errors import RunError

if TYPE_CHECKING:
    from raytrain_xai.runners.train import Launch, Outcome

_SHOWN = (
    "f1", "map", "map_pooled", "epg", "iou", "on_object", "accuracy", "top5", "worst_group", "agreement", "similarity",
    "variance_explained", "image_l0", "carriers", "dead", "always_on",
)  # fmt: skip


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override one value; repeatable."),
        click.option("--workers", type=click.IntRange(min=0), help="Training workers; 0 trains in this process."),
        address_option,
    ):
        command = option(command)
    return command


@click.command("train")
@click.argument("config", type=click.Path())
@_options
@click.pass_context
def train_command(
    context: click.Context, config: str, overrides: tuple[str, ...], workers: int | None, address: str
) -> None:
    """Train the run described by CONFIG and measure it."""
    run_config = load_job(config, _with_workers(overrides, workers))  # before the slow imports below

    from raytrain_xai.runners.train import start_run

    with _launch(context, address) as launch:
        outcome = start_run(run_config, launch)
    _conclude(outcome)


@click.command("resume")
@click.argument("run")
@_options
@click.pass_context
def resume_command(
    context: click.Context, run: str, overrides: tuple[str, ...], workers: int | None, address: str
) -> None:
    """Continue RUN (its folder or s3:// address) from its newest complete checkpoint.

    Only what does not change the training so far can be set, such as epochs=N to train longer.
    """
    from raytrain_xai.runners.train import resume_run

    with _launch(context, address) as launch:
        outcome = resume_run(run, _with_workers(overrides, workers), launch)
    if outcome.was_finished:
        epoch = outcome.metrics["selected"]["epoch"]
        click.echo(
            f"{outcome.run} is finished (checkpoint of epoch {epoch} selected); --set epochs=N trains longer", err=True
        )
        _echo_metrics(outcome)
        return
    _conclude(outcome)


def _with_workers(overrides: Sequence[str], workers: int | None) -> list[str]:
    return [*overrides, *([] if workers is None else [f"workers={workers}"])]


@contextmanager
def _launch(context: click.Context, address: str) -> Generator[Launch]:
    from raytrain_xai.runners.stop import StopRequest
    from raytrain_xai.runners.train import Launch

    with live_progress() as show:
        yield Launch(address, show, debug=context.find_root().params["debug"], stop=StopRequest())


def _conclude(outcome: Outcome) -> None:
    """Print the metrics and write the report; the run itself is safe by now."""
    from raytrain_xai.report.page import write_report
    from raytrain_xai.report.runs import has_page

    _echo_metrics(outcome)
    if not has_page(outcome.run):
        return
    try:
        page = write_report([outcome.run], None)
    except Exception as error:
        raise RunError(
            f"{outcome.run} is trained and measured, but its report could not be written "
            f"({type(error).__name__}: {error}); try `raytrain-xai report {outcome.run}`"
        ) from error
    click.echo(f"report: {page}")


def _echo_metrics(outcome: Outcome) -> None:
    before = outcome.metrics.get("before", {})  # of a concept run: the network without concepts
    for split in ("val", "test"):
        for values, note in ((before.get(split, {}), "  (before)"), (outcome.metrics.get(split, {}), "")):
            shown = "  ".join(f"{name} {values[name]:.3f}" for name in _SHOWN if name in values)
            if shown:
                click.echo(f"{split:>5}  {shown}{note}")
    click.echo(f"run: {outcome.run}")
