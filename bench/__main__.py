"""``python -m bench [NAME...]``: measure against plain formulations of the same mathematics, and print a table.

Exits with 1 when a result differs from its peer; a missed target is printed, not fatal.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import click
import torch

import bench
from bench.timing import Options, Result, keep_freed_memory


def bench_names() -> list[str]:
    """Modules of this package that hold a ``run(options) -> list[Result]``."""
    names = sorted(module.name for module in pkgutil.iter_modules(bench.__path__) if module.name != "__main__")
    return [name for name in names if hasattr(importlib.import_module(f"bench.{name}"), "run")]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(bench_names()))
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda to time with events.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Interleaved rounds.")
@click.option(
    "--keep-memory/--default-allocator",
    default=True,
    show_default=True,
    help="Let the C allocator keep what is freed, or measure its page faults too, as in an ordinary process.",
)
def main(names: tuple[str, ...], device: str, rounds: int, keep_memory: bool) -> None:
    """Run the benches NAMES (all of them without any)."""
    torch.set_num_threads(1)
    if keep_memory:
        keep_freed_memory()
    options = Options(rounds, torch.device(device))
    click.echo(f"{'bench / case':44} {'value':>8}  {'target':22} {'reached':8} {'error':>8}  detail")
    results: list[Result] = []
    for name in names or bench_names():
        torch.manual_seed(0)
        for result in importlib.import_module(f"bench.{name}").run(options):
            click.echo(_line(result))
            results.append(result)
    wrong = [f"{result.bench} {result.case}" for result in results if not result.agrees]
    if wrong:
        click.echo(f"differs from its peer: {'; '.join(wrong)}", err=True)
        sys.exit(1)


def _line(result: Result) -> str:
    sign = ">=" if result.is_minimum else "<="
    target = f"{sign} {result.target:g}x {result.measure}"
    reached = "yes" if result.reached else "no"
    name = f"{result.bench} / {result.case}"
    return f"{name:44} {result.value:7.2f}x  {target:22} {reached:8} {result.error:8.1e}  {result.detail}"


if __name__ == "__main__":
    main()
