"""``raytrain-xai insight name``: names for the concepts of a run, from vocabularies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from raytrain_xai.cli.tables import echo_table

if TYPE_CHECKING:
    from raytrain_xai.concepts.naming import Variant
    from raytrain_xai.insight.naming_score import NamingScore


@click.command("name")
@click.argument("run")
@click.option(
    "--vocabulary",
    "vocabularies",
    multiple=True,
    default=("common", "imagenet", "coco", "voc"),
    show_default=True,
    metavar="LIST",
    help="common, coco, imagenet, voc or a text file; repeatable.",
)
@click.option(
    "--variant",
    default="whole",
    show_default=True,
    type=click.Choice(["whole", "weighted", "family", "own", "row"]),
    help="Vector of a concept: of its strongest patches; with its family, weighted or not; alone; its dictionary row.",
)
@click.option(
    "--templates",
    "families",
    multiple=True,
    default=("plain",),
    show_default=True,
    metavar="FAMILY",
    help="Prompt families, the best one counts: plain, noun, adjective, verb, imagenet.",
)
@click.option(
    "--closeness",
    default=0.9,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Prefer general terms whose score is at least this part of the best; 1: best score alone.",
)
@click.option("--text-cache", metavar="DIR", help="Folder or s3:// of text vectors; default: RUN/insight/texts.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")  # fmt: skip
def name_command(
    run: str, vocabularies: tuple[str, ...], variant: Variant, families: tuple[str, ...], closeness: float,
    text_cache: str | None, checkpoint: str,
) -> None:  # fmt: skip
    """Name the concepts of a described RUN.

    A concept is called by the term that lies nearest to it in the space of its encoder. The names are proposals: those
    that people give with `raytrain-xai concepts names` stand before them. Where the images had class masks, names for
    these classes are judged by them. Writes RUN/insight/naming.json and a page to look the names over.
    """
    from raytrain_xai.concept_runs.names import given_names
    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.described import description_of, read_described, read_top_tokens
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.insight.naming import NamingRule, name_concepts, write_naming
    from raytrain_xai.insight.naming_score import read_labels, score_names
    from raytrain_xai.language.text_cache import TextCache
    from raytrain_xai.language.vocabulary import read_vocabulary
    from raytrain_xai.report.names_page import write_names_page
    from raytrain_xai.report.tree_page import write_hierarchy
    from raytrain_xai.run_folder import open_run
    from raytrain_xai.storage import locate

    at = open_run(run)
    rule = NamingRule(variant=variant, families=families, closeness=closeness)
    lists = [read_vocabulary(text) for text in vocabularies]
    described, top = read_described(at), read_top_tokens(at)
    model = load_insight(run, which=checkpoint, device=available_device())
    texts = TextCache(description_of(at).child("texts") if text_cache is None else locate(text_cache))
    naming = name_concepts(model, described, top.code, lists, rule=rule, cache=texts)
    write_naming(at, naming)
    names = {concept: name for concept, (name, _) in naming.names.items()}
    score: NamingScore | None = None
    if bool(described.sums.class_positions.sum()):
        score = score_names(names, read_labels(described, top), described.sums, described.classes)
    click.echo(f"{len(names)} of {described.subject.concepts} concepts have a name, the others were never active")
    if score is not None:
        _echo_score(score)
    write_hierarchy(at)
    click.echo(write_names_page(described, naming, given_names(at), score))


def _echo_score(score: NamingScore) -> None:
    from rich.table import Table

    table = Table("class", "names", "fit", "pointing", "chance", title="names that stand for a class")
    for kind in sorted({name.kind for name in score.judged}):
        own = [name for name in score.judged if name.kind == kind]
        pointing = sum(name.pointing for name in own) / len(own)
        fits = sum(name.fits for name in own)
        table.add_row(kind, str(len(own)), str(fits), f"{pointing:.2f}", f"{own[0].chance:.2f}")
    if score.judged:
        echo_table(table)
    click.echo(
        f"{len(score.judged)} names stand for a class and {score.fitting:.0%} of them fit (most strongest patches "
        f"lie there); {len(score.named_so)} of {len(score.specific)} concepts that point at one class have its name"
    )
