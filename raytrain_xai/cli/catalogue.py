"""``raytrain-xai catalogue``: the statistics of all concepts of a run, and pages to browse them."""

from __future__ import annotations

import click

from raytrain_xai.cli.crew import crew_of, crew_options
from raytrain_xai.cli.progress import live_progress


@click.command("catalogue")
@click.argument("run")
@click.option("--data", metavar="DEST", help="Prepared data set; default: the one the concepts were trained on.")
@click.option("--split", default="val", show_default=True)
@crew_options
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--out", metavar="DIR", help="Folder or s3:// address; default: RUN/catalogue.")
def catalogue_command(
    run: str, data: str | None, split: str, workers: int, gpus_per_worker: float | None, address: str, checkpoint: str,
    out: str | None,
) -> None:  # fmt: skip
    """Measure every concept of RUN on a data set and write pages to browse them.

    Per concept: the images and places that show it best, how frequent, specific and large it is, what it contributes
    to, which concepts act at the same places, and a proposed name. An interrupted catalogue goes on where it stopped;
    a complete one is not measured again, only its pages are made anew, with the names of now.
    """
    from raytrain_xai.concept_runs.catalogue_tables import CONCEPTS
    from raytrain_xai.concept_runs.names import given_names, propose
    from raytrain_xai.report.catalogue_site import write_site
    from raytrain_xai.run_folder import open_run
    from raytrain_xai.runners.catalogue import build_catalogue

    at = open_run(run)
    crew = crew_of(workers, gpus_per_worker, address)
    with live_progress() as show:
        catalogue = build_catalogue(run, crew, show, data=data, split=split, which=checkpoint, out=out)
    rows = catalogue.table(CONCEPTS, ("concept", "proposed")).to_pydict()
    if out is None:
        propose(at, {k: name for k, name in zip(rows["concept"], rows["proposed"], strict=True) if name})
    page = write_site(catalogue, given_names(at))
    totals = catalogue.totals
    click.echo(
        f"{totals['alive']} of {catalogue.subject.concepts} concepts contribute on {totals['images']} images; "
        f"{totals['concepts_per_image']:.1f} active per image, {totals['concepts_for_80_percent']:.1f} carry 80 %, "
        f"{totals['always_on']} always on"
    )
    click.echo(page)
