"""``raytrain-xai insight describe``: what concepts have to do with each other, and a page to browse them."""

from __future__ import annotations

import click

from raytrain_xai.cli.crew import crew_of, crew_options
from raytrain_xai.cli.progress import live_progress


@click.command("describe")
@click.argument("run")
@click.option("--data", multiple=True, metavar="DEST", help="Prepared data set, repeatable; default: as trained on.")
@click.option("--split", metavar="NAME", help="Of all data sets; default: that of the training.")
@click.option("--threshold", default=0.8, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Share of a concept's activation that its parent has to accompany.")  # fmt: skip
@click.option("--min-positions", default=50, show_default=True, type=click.IntRange(1),
              help="Rarer concepts have no relations.")  # fmt: skip
@crew_options
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
def describe_command(
    run: str, data: tuple[str, ...], split: str | None, threshold: float, min_positions: int, workers: int,
    gpus_per_worker: float | None, address: str, checkpoint: str,
) -> None:  # fmt: skip
    """Measure which concepts of RUN are active together, and draw their hierarchy.

    Writes RUN/insight: relations, the strongest patches of every concept, the graph as JSON and GraphML, and a page to
    browse. The pass over the images is made once and goes on where it stopped; later calls apply other thresholds, and
    show the names of now.
    """
    from raytrain_xai.concepts.relations import RelationRule
    from raytrain_xai.insight.described import totals
    from raytrain_xai.report.tree_page import write_hierarchy
    from raytrain_xai.run_folder import open_run
    from raytrain_xai.runners.describe import describe_run

    at = open_run(run)
    crew = crew_of(workers, gpus_per_worker, address)
    rule = RelationRule(threshold=threshold, min_positions=min_positions)
    with live_progress() as show:
        described = describe_run(run, crew, show, data=data, split=split, which=checkpoint, rule=rule)
    page = write_hierarchy(at)
    found = totals(described.relations)
    click.echo(
        f"{found['active']} of {described.subject.concepts} concepts are active on {described.subject.num_images} "
        f"images; {found['relations']} relations lead from {found['children']} concepts to {found['parents']} parents, "
        f"{found['synonyms']} are synonyms of others"
    )
    click.echo(page)
