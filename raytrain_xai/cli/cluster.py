"""``raytrain-xai cluster``: the same commands on Kubernetes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from raytrain_xai.cluster.render import Sources
    from raytrain_xai.cluster_config import ClusterValues

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group("cluster")
def cluster_group() -> None:
    """Kubernetes manifests for KubeRay."""


@cluster_group.command("render")
@click.option("--values", "file", type=click.Path(), required=True, help="YAML file of values; see cluster/values/.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override one value; repeatable.")
@click.option("--out", type=_FOLDER, required=True, help="Folder for `kubectl apply -k`.")
@click.option("--base", type=_FOLDER, help="An earlier folder; only what differs from it is written.")
def render_command(file: str, overrides: tuple[str, ...], out: Path, base: Path | None) -> None:
    """Fill values into the manifests of a cluster, its jobs and its service, and write them.

    Says how many GPU-hours a month may take. Nothing is applied and no cluster is asked.
    """
    from raytrain_xai.cluster.render import manifests, write_manifests
    from raytrain_xai.cluster_config import load_values

    values = load_values(file, overrides)
    found = manifests(values, sources_of(values))
    for path in write_manifests(found, out, base):
        click.echo(path)
    click.echo(f"{len(found)} manifests; look at them with `kubectl kustomize {out}`")
    _echo_hours(values)


def sources_of(values: ClusterValues) -> Sources:
    """The service's configuration, checked as the service itself will check it, and its dashboard."""
    from raytrain_xai.cluster.ray import serve_config
    from raytrain_xai.cluster.render import Sources
    from raytrain_xai.config_text import read_yaml, validated
    from serve.settings import ServeSettings

    shipped = files("serve")
    config = shipped.joinpath("config/production.yaml").read_text(encoding="utf-8")
    if values.serve is not None:
        if values.serve.config is not None:
            read_yaml(Path(values.serve.config))  # names what is wrong with the file
            config = Path(values.serve.config).read_text(encoding="utf-8")
        for application in _applications(serve_config(values.serve, config)):
            validated(ServeSettings, application, source=values.serve.config or "serve")
    return Sources(config, shipped.joinpath("dashboards/grafana.json").read_text(encoding="utf-8"))


def _applications(config: str) -> list[dict[str, object]]:
    import yaml

    found: list[dict[str, object]] = []
    for application in yaml.safe_load(config)["applications"]:
        if application.get("import_path") == "serve.app:build":
            found.append(application["args"])
    if not found:
        raise ConfigError("the configuration of Ray Serve has no application with import_path: serve.app:build")
    return found


def _echo_hours(values: ClusterValues) -> None:
    from raytrain_xai.cluster.estimate import gpu_hours

    rows = gpu_hours(values)
    if not rows:
        click.echo("no workers with GPUs")
        return
    for row in rows:
        price = "" if row.cost is None else f", {row.cost[0]:.0f} to {row.cost[1]:.0f} at {row.price:g} an hour"
        click.echo(f"{row.group:>6}  {row.low:.0f} to {row.high:.0f} GPU-hours a month{price}")
    click.echo(f" total  {sum(row.low for row in rows):.0f} to {sum(row.high for row in rows):.0f} GPU-hours a month")
    if values.estimate.duty is None:
        click.echo("as if every worker above the minimum were used all month; say --set estimate.duty=0.3 for 30 %")
    click.echo("jobs with clusters of their own come on top while they run beside these workers")
