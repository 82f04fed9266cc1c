"""``raytrain-xai insight index`` and ``search``: images by concept, by name and by text."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from raytrain_xai.errors import ConfigError


@click.command("index")
@click.argument("run")
@click.option("--data", multiple=True, metavar="DEST", help="Prepared data set, repeatable; default: as trained on.")
@click.option("--split", default="train", show_default=True, help="Of all data sets.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--out", metavar="DIR", help="Default: RUN/insight/index-SPLIT.")
def index_command(run: str, data: tuple[str, ...], split: str, checkpoint: str, out: str | None) -> None:
    """List which concepts of RUN the images of data sets show, so that images can be searched."""
    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.image_index import build_index
    from raytrain_xai.insight.image_rows import ImageRows
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.run_folder import open_run
    from raytrain_xai.storage import locate

    target = locate(out) if out else open_run(run).child("insight", f"index-{split}")
    model = load_insight(run, which=checkpoint, device=available_device())
    size = model.config.image_size or model.encoder.image_size
    images = ImageRows(data or model.config.data, split, size, shorter=model.config.eval_resize)
    with click.progressbar(length=len(images), label="images", file=sys.stderr) as bar:
        about = build_index(model, images, split, target, bar.update)
    click.echo(f"{about.images} images; written to {target.uri}")


@click.command("search")
@click.argument("index")
@click.option("--concept", type=click.IntRange(0), help="Number of a concept.")
@click.option("--name", help="Name of concepts.")
@click.option("--text", help="Anything else, in words.")
@click.option("--templates", default="plain", show_default=True, metavar="FAMILY", help="Sentences around --text.")
@click.option("--count", default=10, show_default=True, type=click.IntRange(1), help="Images, at most.")
@click.option("--run", help="Where the run of INDEX is now; default: where it was.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def search_command(
    index: str, concept: int | None, name: str | None, text: str | None, templates: str, count: int, run: str | None,
    checkpoint: str, as_json: bool,
) -> None:  # fmt: skip
    """Find the images of INDEX that show a concept, or what a text says; best first.

    The score is the largest value of the concept in an image, or the mean cosine of its patches with the text and then
    the exact sum of what its concepts add; those that add most are named.
    """
    from raytrain_xai.cli.insight_labels import vectors_of
    from raytrain_xai.concept_runs.names import read_names
    from raytrain_xai.insight.image_index import ImageIndex
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.insight.search import concepts_named, search_concept, search_text
    from raytrain_xai.run_folder import open_run
    from raytrain_xai.storage import locate

    if sum(asked is not None for asked in (concept, name, text)) != 1:
        raise ConfigError("ask one question: --concept NUMBER, --name NAME or --text TEXT")
    opened = ImageIndex(locate(index))
    origin = run or opened.about.run
    names = read_names(open_run(origin))
    if text is not None:
        model = load_insight(origin, which=checkpoint)
        hits = search_text(opened, model, vectors_of(model.encoder, [text], templates)[0], count)
    else:
        chosen = [concept] if concept is not None else concepts_named(names, name or "")
        hits = search_concept(opened, chosen, count)
    for hit in hits:
        if as_json:
            click.echo(json.dumps(asdict(hit)))
            continue
        reasons = ", ".join(f"{names.get(k, f'concept {k}')} {value:+.3f}" for k, value in hit.concepts.items())
        click.echo(f"{hit.score:8.4f}  {hit.data} {hit.id}  {reasons}")
