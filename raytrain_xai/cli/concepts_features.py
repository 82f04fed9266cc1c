"""``raytrain-xai concepts features``: export what concept layers are trained on."""

from __future__ import annotations

import click

from raytrain_xai.cli.crew import address_option
from raytrain_xai.cli.progress import live_progress
from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.config import load_job
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight_config import InsightRunConfig


@click.command("features")
@click.argument("config", type=click.Path())
@click.option(
    "--layer", "layers", multiple=True, metavar="TAP", help="Default: layer of CONFIG; repeatable. Not for encoders."
)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override one value; repeatable.")
@click.option("--workers", type=click.IntRange(min=0), help="0 exports in this process.")
@address_option
@click.pass_context
def features_command(
    context: click.Context, config: str, layers: tuple[str, ...], overrides: tuple[str, ...], workers: int | None,
    address: str,
) -> None:  # fmt: skip
    """Export feature vectors of the network or encoder of CONFIG (job: concepts) to <features.store>/<TAP>/.

    Several layers share one pass over the images. The space needed is said first, and nothing is written where it is
    missing. An interrupted export goes on where it stopped; one that is complete is verified.
    """
    workers_too = [] if workers is None else [f"workers={workers}"]
    run_config = load_job(config, [*overrides, *workers_too])
    if not isinstance(run_config, ConceptRunConfig | InsightRunConfig):
        raise ConfigError(f"{config} is of job: {run_config.job}; features are exported for job: concepts")

    from raytrain_xai.features.patches import PATCHES
    from raytrain_xai.runners.concept_job import absolute_paths
    from raytrain_xai.runners.export_features import export_features
    from raytrain_xai.runners.insight_job import absolute_insight
    from raytrain_xai.runners.job import Launch

    if isinstance(run_config, InsightRunConfig):
        if layers:
            raise ConfigError("an encoder has one place to take features from, its patches; leave --layer out")
        resolved, taps = absolute_insight(run_config), (PATCHES,)
    else:
        resolved, taps = absolute_paths(run_config), layers or (run_config.layer,)
    with live_progress() as show:
        launch = Launch(address, show, debug=context.find_root().params["debug"])
        manifests = export_features(resolved, taps, launch)
    for tap, manifest in manifests.items():
        plan = manifest.plan
        click.echo(f"{tap}: {plan.num_vectors} vectors of {plan.dim} in {len(manifest.shards)} shards")
    click.echo(f"written to {run_config.features.store}")
