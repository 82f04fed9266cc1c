"""Tables on standard output, the same on a terminal and in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table


def echo_table(table: Table) -> None:
    """Print a table, up to 120 columns wide."""
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    click.echo(capture.get(), nl=False)
