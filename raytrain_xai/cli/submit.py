"""``raytrain-xai submit``: commands as jobs on a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from raytrain_xai.cli.submitted import plan_command, train_or_tune
from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from raytrain_xai.runners.job_server import JobServer
    from raytrain_xai.runners.submit import JobPlan

_LOOPBACK = ("127.", "localhost", "[::1]")
_INTERRUPTED = 130


@click.command("submit")
@click.argument("command", nargs=-1, metavar="CONFIG | -- COMMAND...")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override one value of CONFIG; repeatable.")
@click.option(
    "--address", metavar="URL", required=True, envvar="RAY_API_SERVER_ADDRESS", show_envvar=True,
    help="Dashboard of the cluster, http://HOST:8265.",
)  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Print the job's ID and return, once it is submitted.")
@click.option("--follow", "followed", metavar="ID", help="Show the output of a job, from its beginning.")
@click.option("--stop", "stopped", metavar="ID", help="Stop a job, after a checkpoint.")
@click.pass_context
def submit_command(
    context: click.Context, command: tuple[str, ...], overrides: tuple[str, ...], address: str, no_wait: bool,
    followed: str | None, stopped: str | None,
) -> int:  # fmt: skip
    """Run CONFIG (of a run or a sweep) or any COMMAND of this program as a job on a Ray cluster.

    Shows the job's output and returns its exit code. Ctrl-C stops the job, which writes a checkpoint first. Files that
    COMMAND reads are uploaded; folders have to be visible on the cluster, so give s3:// or shared ones.
    """
    if sum([bool(command), followed is not None, stopped is not None]) != 1:
        raise ConfigError("give one of CONFIG, -- COMMAND, --follow ID or --stop ID")
    if not command and (overrides or no_wait):
        raise ConfigError("--set and --no-wait go with CONFIG or a COMMAND")
    plan = _planned(context.find_root().command, command, overrides) if command else None
    from raytrain_xai.runners.job_server import connect

    server = connect(address)
    if stopped is not None:
        return _stop(server, stopped)
    job = followed if plan is None else _submit(server, plan)
    assert job is not None
    if no_wait:
        click.echo(job)
        return 0
    return _follow(server, job)


def _planned(root: click.Command, command: tuple[str, ...], overrides: tuple[str, ...]) -> JobPlan:
    assert isinstance(root, click.Group)
    first = command[0]
    if first in root.commands or first.startswith("-"):
        if overrides:
            raise ConfigError("--set before -- is for a CONFIG; give it to the command, after --")
        return plan_command(root, command)
    if len(command) > 1:
        raise ConfigError(f"{first} is no command, and there is one CONFIG to a job; write -- before a command")
    return plan_command(root, train_or_tune(first, overrides))


def _submit(server: JobServer, plan: JobPlan) -> str:
    from raytrain_xai.runners.job_server import num_nodes
    from raytrain_xai.runners.submit import submit

    nodes = num_nodes(server)
    if plan.local and (nodes > 1 or not server.url.partition("://")[2].startswith(_LOOPBACK)):
        click.echo(
            f"warning: {', '.join(plan.local)} must lead to the same files on every node ({nodes} now); s3:// "
            "addresses do",
            err=True,
        )
    job = submit(server, plan)
    click.echo(f"job {job} at {server.url}", err=True)
    return job


def _follow(server: JobServer, job: str) -> int:
    """Show a job to its end; Ctrl-C stops it."""
    from raytrain_xai.runners.job_follow import Follower, request_stop

    follower = Follower(server, job, _show)
    try:
        return follower.to_end().code
    except KeyboardInterrupt:
        click.echo("stopping: the job writes a checkpoint first; Ctrl-C again leaves it to that", err=True)
    try:
        request_stop(server, job)
        follower.to_end()
    except KeyboardInterrupt:
        click.echo(f"job {job} is stopping; --follow {job} shows how it ends", err=True)
    return _INTERRUPTED


def _stop(server: JobServer, job: str) -> int:
    """Stop a job and wait for its end; 0 when it ended."""
    from raytrain_xai.runners.job_follow import Follower, request_stop

    request_stop(server, job)
    end = Follower(server, job, _ignore).to_end()
    click.echo(f"job {job} {'is stopped' if end.stopped else f'had ended with exit code {end.code}'}", err=True)
    return 0


def _show(output: str) -> None:
    click.echo(output, nl=False)


def _ignore(output: str) -> None:
    """Of a job that is stopped, nobody asked for the output."""
