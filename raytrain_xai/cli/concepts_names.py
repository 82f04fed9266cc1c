"""``raytrain-xai concepts names``: look at the names of concepts, and give better ones."""

from __future__ import annotations

import click

from raytrain_xai.errors import ConfigError


@click.command("names")
@click.argument("run")
@click.option("--set", "changes", multiple=True, metavar="ID=NAME", help="Repeatable; an empty NAME takes it back.")
@click.option("--query", default="", metavar="TEXT", help="Only concepts whose name or number holds it.")
def names_command(run: str, changes: tuple[str, ...], query: str) -> None:
    """Show or set the names of the concepts of RUN.

    Traces use them at once; the pages of a catalogue when they are written again. Names that were proposed come from
    the labels of the images in which a concept is active, see `raytrain-xai catalogue`.
    """
    from rich.table import Table

    from raytrain_xai.cli.tables import echo_table
    from raytrain_xai.concept_runs.names import given_names, read_names, rename
    from raytrain_xai.config import parse_concept_config
    from raytrain_xai.run_folder import CONFIG, open_run, read_config

    at = open_run(run)
    num_concepts = parse_concept_config(read_config(at), source=at.child(CONFIG).uri).sae.latents
    if changes:
        rename(at, dict(_change(text) for text in changes), num_concepts)
    given = given_names(at)
    names = sorted(read_names(at).items())
    shown = [(k, name) for k, name in names if query.casefold() in f"{name} {k}".casefold()]
    table = Table("concept", "name", "by", title=f"{len(names)} of {num_concepts} concepts have a name")
    for k, name in shown:
        table.add_row(str(k), name, "you" if k in given else "proposed")
    echo_table(table)


def _change(text: str) -> tuple[int, str]:
    number, equals, name = text.partition("=")
    if not equals or not number.strip().isdecimal():
        raise ConfigError(f"--set {text!r} is not ID=NAME; ID is the number of a concept, as in --set 12=wheel")
    return int(number), name
