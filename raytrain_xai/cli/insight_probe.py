"""``raytrain-xai insight probe``: classes as sums of few concepts."""

from __future__ import annotations

import sys

import click


@click.command("probe")
@click.argument("run")
@click.option("--data", required=True, metavar="DEST", help="Prepared data set with the splits train and val.")
@click.option("--penalties", default=20, show_default=True, type=click.IntRange(2), help="Probes along the path.")
@click.option("--smallest", default=0.01, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Last penalty as a share of the first, at which no concept is left.")  # fmt: skip
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--out", metavar="DIR", help="Default: RUN/insight/probe.")
def probe_command(run: str, data: str, penalties: int, smallest: float, checkpoint: str, out: str | None) -> None:
    """Fit linear probes without bias on the concepts of RUN, from the sparsest to the densest.

    The sparsest one that is within one percent of the best on validation is kept. Every logit is the sum of what the
    concepts of an image add to it.
    """
    from raytrain_xai.data.dataset import open_dataset
    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.insight.probe import PathPlan
    from raytrain_xai.insight.probing import ABOUT, WEIGHTS, fit_probe, write_probe
    from raytrain_xai.run_folder import open_run
    from raytrain_xai.storage import locate

    target = locate(out) if out else open_run(run).child("insight", "probe")
    plan = PathPlan(penalties, smallest)
    total = sum(open_dataset(data).splits.values())
    model = load_insight(run, which=checkpoint, device=available_device())
    with click.progressbar(length=total, label="images", file=sys.stderr) as bar:
        probe = fit_probe(model, data, plan, bar.update)
    write_probe(target, model, data, probe)
    measure = "accuracy" if probe.task == "multiclass" else "mAP"
    for number, row in enumerate(probe.path):
        mark = "  chosen" if number == probe.chosen else ""
        unsolved = "" if row.violation <= plan.tolerance else f"  not solved to {row.violation:.0e}"
        click.echo(
            f"  penalty {row.penalty:9.2e}  {row.concepts_per_class:7.1f} concepts a class  {measure} "
            f"{row.measure:.3f}{mark}{unsolved}"
        )
    if probe.test is not None:
        click.echo(f"test: {measure} {probe.test:.3f}")
    click.echo(f"written to {target.uri}: {ABOUT}, {WEIGHTS}")
