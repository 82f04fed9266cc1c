"""Options of commands that share work out to Ray workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from raytrain_xai.runners.tasks import Crew

F = TypeVar("F", bound=Callable[..., Any])

address_option = click.option(
    "--address", default=lambda: "auto" if "RAY_ADDRESS" in os.environ else "local",
    show_default="local; auto inside a Ray job", metavar="local|auto|ray://HOST:PORT|HOST:PORT",
    help="Ray cluster that offers the workers.",
)  # fmt: skip

_OPTIONS = (
    click.option(
        "--workers", default=0, show_default=True, type=click.IntRange(min=0), help="0 works in this process."
    ),
    click.option(
        "--gpus-per-worker", type=click.FloatRange(min=0), help="Default: 1 if this machine has a GPU, else 0."
    ),
    address_option,
)


def crew_options(command: F) -> F:
    """Add ``--workers``, ``--gpus-per-worker`` and ``--address``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def crew_of(workers: int, gpus_per_worker: float | None, address: str) -> Crew:
    """The crew that these options describe."""
    from raytrain_xai.explain import available_device
    from raytrain_xai.runners.tasks import Crew
    from raytrain_xai.sections import ResourcesConfig

    gpus = (1.0 if available_device().type == "cuda" else 0.0) if gpus_per_worker is None else gpus_per_worker
    debug = click.get_current_context().find_root().params["debug"]
    return Crew(workers, ResourcesConfig(gpus_per_worker=gpus), address, debug=debug)
