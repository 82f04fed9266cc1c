"""``raytrain-xai concepts c2`` and ``c2-files``: do the images of a concept show the same thing?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from raytrain_xai.cli.crew import crew_of, crew_options
from raytrain_xai.cli.progress import live_progress

if TYPE_CHECKING:
    from raytrain_xai.concept_runs.scores import Scores

_FEATURES_HELP = (
    'dinov2_vits14 (as published; the extra "features"), dinov2_vits14=FILE, efficientnet_lite0, NAME=WEIGHTS[@TAP] '
    "such as squeezenet1_1=imagenet, RUN[@TAP], or files:FOLDER with <image id>.npy."
)


@click.command("c2")
@click.argument("run")
@click.option("--features", required=True, metavar="MODEL", help=_FEATURES_HELP)
@click.option(
    "--baseline", "baselines", multiple=True, type=click.Choice(["channels", "nmf", "pca"]),
    help="Score these too, at the same tap and on the same images; repeatable.",
)  # fmt: skip
@click.option("--components", default=64, show_default=True, type=click.IntRange(min=1), help="Of nmf and pca.")
@click.option("--data", metavar="DEST", help="Prepared data set; default: the one the concepts were trained on.")
@click.option("--split", default="test", show_default=True)
@click.option(
    "--upsampling", default="bilinear", show_default=True, type=click.Choice(["bilinear", "none"]),
    help="Of the features to the size of the explanations.",
)  # fmt: skip
@click.option("--per-class", is_flag=True, help="Judge every class by itself.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the random concept.")
@click.option("--checkpoint", default="selected", show_default=True, help="Of the run; see eval.")
@crew_options
@click.option("--out", metavar="DIR", help="Folder for c2.json and c2.png; default: c2/<data>-<split>/ in RUN.")
def c2_command(
    run: str, features: str, baselines: tuple[Any, ...], components: int, data: str | None,
    split: str, upsampling: Any, per_class: bool, seed: int, checkpoint: str, workers: int,
    gpus_per_worker: float | None, address: str, out: str | None,
) -> None:  # fmt: skip
    """Measure how consistent the concepts of RUN are, by the C2-score, against the features of another MODEL.

    C2 is the mean over concepts of how alike their image regions look to MODEL, minus the same for random regions:
    0 for noise, at most 1. Take a model that neither is the explained network nor taught it. Started again, an
    interrupted job goes on.
    """
    from raytrain_xai.concept_runs.model import load_concepts
    from raytrain_xai.concept_runs.scoring import ScoreJob
    from raytrain_xai.report.consistency import INDEX, PICTURE, write_scores
    from raytrain_xai.run_folder import open_run
    from raytrain_xai.runners.score_concepts import score_concepts
    from raytrain_xai.storage import locate

    data = data or load_concepts([run], which=checkpoint).data
    name = locate(data).path.rstrip("/").rsplit("/", 1)[-1]
    folder = locate(out) if out else open_run(run).child("c2", f"{name}-{split}")
    job = ScoreJob(run, checkpoint, features, data, split, upsampling, baselines, components, per_class, seed)
    with live_progress() as show:
        scores = score_concepts(job, crew_of(workers, gpus_per_worker, address), folder, show)
    write_scores(folder, job, scores)
    _echo(scores)
    click.echo(f"written to {folder.uri}: {INDEX}, {PICTURE}")


def _echo(scores: Scores) -> None:
    click.echo(f"{scores.num_images} images; random regions {float(scores.random.nanmean()):.4f}")
    for source in scores.sources:
        click.echo(
            f"  {source.name:<10} C2 {source.c2:.4f}  mean consistency {source.mean_consistency:.4f}  "
            f"{len(source.counted)} of {source.num_concepts} concepts counted"
        )


@click.command("c2-files")
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option("--features", required=True, metavar="MODEL", help=_FEATURES_HELP)
@click.option("--upsampling", default="bilinear", show_default=True, type=click.Choice(["bilinear", "none"]))
@click.option("--out", metavar="FILE", help="Write the numbers as JSON.")
def c2_files_command(folders: tuple[str, ...], features: str, upsampling: Any, out: str | None) -> None:
    """Measure the consistency of concepts of any origin, one FOLDER each.

    A folder holds id_<n>_act_<value>.jpg with the activation in the name, and id_<n>_actmap.npy or .pt (weights only)
    with the activation map. Nothing is centred and no baseline is taken off: compare the numbers with each other only.
    """
    from raytrain_xai.concept_runs.c2_files import score_folder
    from raytrain_xai.explain import available_device
    from raytrain_xai.features.models import load_feature_model
    from raytrain_xai.storage import locate, write_bytes

    model = load_feature_model(features, device=available_device())
    scores = [score_folder(folder, model, upsampling) for folder in folders]
    for score in scores:
        click.echo(f"{score.consistency:.4f}  {score.images} images  {score.folder}")
    mean = sum(score.consistency for score in scores) / len(scores)
    click.echo(f"mean consistency {mean:.4f}")
    if out is not None:
        content = {
            "format_version": 1, "features": features, "upsampling": upsampling, "mean": mean,
            "concepts": [vars(score) for score in scores],
        }  # fmt: skip
        write_bytes(locate(out), (json.dumps(content, indent=1) + "\n").encode())
        click.echo(f"written to {out}")
