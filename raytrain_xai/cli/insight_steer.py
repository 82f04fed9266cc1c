"""``raytrain-xai insight steer``: turn a concept up or down, and read what a caption makes of it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from raytrain_xai.cli.insight_caption import decoder_option, pixels_of
from raytrain_xai.errors import ConfigError


@click.command("steer")
@click.argument("run")
@click.argument("image", metavar="IMAGE")
@click.option("--concept", required=True, metavar="ID", help="Number or name of the concept.")
@click.option("--add", "alphas", metavar="A,B,...", help="Add its direction with these weights: 0.25,0.5,1.")
@click.option("--scale", "betas", metavar="A,B,...", help="Multiply it by these factors wherever it acts: 0,0.5,2.")
@decoder_option
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def steer_command(
    run: str, image: str, concept: str, alphas: str | None, betas: str | None, decoder: str, checkpoint: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Caption IMAGE with a concept of RUN added at several weights, or scaled by several factors.

    Shown are the words that come and go, and how near the caption stays to the image and comes to the concept
    (cosines). A factor of 0 takes the concept out; one that does not act in the image can only be added.
    """
    if (alphas is None) == (betas is None):
        raise ConfigError("give one of --add and --scale, with numbers such as 0,0.5,1")
    strengths = _numbers(alphas or betas or "")

    from rich.table import Table

    from raytrain_xai.captioning.reading import load_decoder
    from raytrain_xai.cli.tables import echo_table
    from raytrain_xai.explain import available_device
    from raytrain_xai.insight.model import load_insight
    from raytrain_xai.insight.steering import find_concept, sweep_added, sweep_scaled
    from raytrain_xai.report.explanation_files import collect_images

    files = collect_images([image])
    if len(files) > 1:
        raise ConfigError(f"{image} holds {len(files)} pictures; give one file")
    file = files[0]
    model = load_insight(run, which=checkpoint, device=available_device())
    writer = load_decoder(decoder, model.encoder)
    number = find_concept(model, concept)
    sweep = sweep_added if alphas is not None else sweep_scaled
    (steered,) = sweep(model, writer, pixels_of(file)[None], number, strengths)
    if as_json:
        for step in steered:
            click.echo(json.dumps(asdict(step)))
        return
    kind = "added" if alphas is not None else "scaled"
    table = Table(kind, "caption", "gained", "lost", "image", "concept", title=f"{model.name(number)} in {file}")
    for step in steered:
        words = (" ".join(step.gained), " ".join(step.lost))
        table.add_row(f"{step.strength:g}", step.text, *words, f"{step.image_score:.2f}", f"{step.concept_score:.2f}")
    echo_table(table)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{text!r} are no numbers; give some such as 0,0.5,1") from None
    if not all(abs(number) < 1e6 for number in numbers):  # false for NaN as well
        raise ConfigError(f"{text!r} holds a number that is not finite or too large; give some such as 0,0.5,1")
    return numbers
