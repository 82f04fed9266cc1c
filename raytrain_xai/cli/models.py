"""``raytrain-xai models``: the architectures of the zoo and their weights."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from raytrain_xai.cli.models_bcosify import bcosify_command
from raytrain_xai.cli.models_publish import export_command, publish_command, pull_command
from raytrain_xai.cli.tables import echo_table
from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from raytrain_xai.models.catalogue import OfficialWeights
    from raytrain_xai.models.download import Progress


@click.group("models")
def models_group() -> None:
    """Architectures and their weights."""


@models_group.command("list")
def list_command() -> None:
    """List every architecture with its cost, the accuracy of its published weights and whether they are here."""
    from rich.table import Table

    from raytrain_xai.models.catalogue import CATALOGUE
    from raytrain_xai.models.cost import listed_costs
    from raytrain_xai.models.download import find_file
    from raytrain_xai.models.zoo import ARCHITECTURES

    table = Table("architecture", "kind")
    for column in ("M par.", "GMACs", "image", "top-1 %", "weights"):
        table.add_column(column, justify="right")
    costs = listed_costs()
    for name, architecture in sorted(ARCHITECTURES.items()):
        cost = costs[name]
        size, work = f"{cost.parameters / 1e6:.1f}", f"{cost.multiply_adds / 1e9:.2f}"
        row = [name, "B-cos" if architecture.is_bcos else "standard", size, work, f"{architecture.image_size} px"]
        published = CATALOGUE.get(name, ())
        for weights in published:
            state = weights.variant + (" (here)" if find_file(weights) else "")
            table.add_row(*row, _percent(weights.top1), state)
            row = [""] * len(row)
        if not published:
            table.add_row(*row, "", "")
    echo_table(table)


@models_group.command("info")
@click.argument("name")
def info_command(name: str) -> None:
    """Show size, work, layers and published weights of the architecture NAME."""
    import torch

    from raytrain_xai.models.catalogue import CATALOGUE
    from raytrain_xai.models.cost import count_cost
    from raytrain_xai.models.zoo import build_network

    cost = count_cost(name)
    with torch.device("meta"):
        network = build_network(name, 1000)
    click.echo(f"{name}: {'B-cos' if network.is_bcos else 'standard'} network for images of {cost.image_size} px")
    click.echo(f"  parameters  {cost.parameters / 1e6:.2f} M with 1000 classes")
    click.echo(f"  work        {cost.multiply_adds / 1e9:.2f} G multiply-adds per image")
    click.echo(f"  layers      {', '.join(network.taps)}")
    for weights in CATALOGUE.get(name, ()):
        _echo_weights(weights)
    if name not in CATALOGUE:
        click.echo("  no published weights")


@models_group.command("download")
@click.argument("name")
@click.option("--variant", default="official", show_default=True, help="Which weights; `models info NAME` lists them.")
def download_command(name: str, variant: str) -> None:
    """Download the published weights of the architecture NAME and check them.

    What an interrupted download left is continued. Files in the folder or s3:// address that RAYTRAIN_XAI_WEIGHTS names
    are found first; the cache is raytrain-xai/weights in XDG_CACHE_HOME (~/.cache).
    """
    from raytrain_xai.models.catalogue import find_official
    from raytrain_xai.models.download import find_file, read_official
    from raytrain_xai.models.zoo import find_architecture

    find_architecture(name)
    weights = find_official(name, variant)
    with _download_bar(weights.file) as progress:
        size = len(read_official(weights, progress))
    at = find_file(weights)
    assert at is not None
    check = f"SHA-256 starts with {weights.sha256}" if weights.sha256 else "no checksum is published"
    click.echo(f"{at.uri}: {size / 1e6:.1f} MB, {check}")


@models_group.command("convert")
@click.argument("file")
@click.argument("name")
@click.argument("out")
def convert_command(file: str, name: str, out: str) -> None:
    """Write FILE, weights of the architecture NAME from another code, to OUT (safetensors).

    Reads what Model-Guidance, B-cos v2, e2KD and torchvision save. NAME topk_sae reads a concept layer of FaCT.
    """
    from raytrain_xai.models.convert import CONCEPT_LAYER, convert_classifier, convert_concept_layer

    if not out.lower().partition("?")[0].endswith(".safetensors"):
        raise ConfigError(f"OUT must be a .safetensors file, got {out}")
    if name == CONCEPT_LAYER:
        concepts, channels, k = convert_concept_layer(file, out)
        click.echo(f"{out}: {concepts} concepts of {channels} channels, {k} active at a position")
        return
    num_classes = convert_classifier(file, name, out)
    click.echo(f"{out}: {name}, {num_classes} classes")


def _echo_weights(weights: OfficialWeights) -> None:
    from raytrain_xai.models.download import find_file

    at = find_file(weights)
    top1 = "top-1 not published" if weights.top1 is None else f"top-1 {weights.top1:.2f} % (published)"
    release = weights.release
    click.echo(f"  {weights.variant}: {top1}, by {release.publisher}, {release.license}, trained on ImageNet")
    click.echo(f"    {weights.url}")
    click.echo(f"    {f'here: {at.uri}' if at else 'not here yet'}, SHA-256 {weights.sha256 or 'not published'}")


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


@contextmanager
def _download_bar(name: str) -> Generator[Progress]:
    """A bar on stderr, only when that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        f"[progress.description]{name}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


models_group.add_command(export_command)
models_group.add_command(publish_command)
models_group.add_command(pull_command)
models_group.add_command(bcosify_command)
