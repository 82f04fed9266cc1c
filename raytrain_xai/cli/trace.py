"""``raytrain-xai trace``: pictures explained by concepts."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("trace")
@click.argument("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for trace.json and trace.html.")
@click.option(
    "--with", "others", multiple=True, metavar="RUN2",
    help="Concept run of the same network at another layer, which tells what concepts are made of; repeatable.",
)  # fmt: skip
@click.option("--class", "names", multiple=True, metavar="NAME", help="Trace this class for every image; repeatable.")
@click.option(
    "--classes", type=click.IntRange(min=0), help="Trace the N strongest classes; default: 1, or 0 with --class."
)
@click.option(
    "--top", type=click.IntRange(min=1), default=16, show_default=True,
    help="Concepts shown one by one; the others are one sum.",
)  # fmt: skip
def trace_command(
    run: str, images: tuple[str, ...], out: Path, others: tuple[str, ...], names: tuple[str, ...],
    classes: int | None, top: int,
) -> None:  # fmt: skip
    """Trace predictions in pictures (files, or all pictures of folders) to the concepts of the concept run RUN.

    Every logit is the sum of what the concepts contribute and of a bias, every concept is traced to the pixels.
    Nothing is written when a file is not a whole picture; every such file is listed.
    """
    from raytrain_xai.concept_runs.tracing import ConceptTracer
    from raytrain_xai.explain import available_device
    from raytrain_xai.report.explanation_files import collect_images
    from raytrain_xai.report.trace_files import INDEX, PAGE, write_traces

    files = collect_images(images)
    tracer = ConceptTracer.load([run, *others], device=available_device())
    number = classes if classes is not None else (0 if names else 1)
    index = write_traces(tracer, files, out, names=names, classes=number, top=top)
    for image in index["images"]:
        for traced in image["classes"]:
            strongest = ", ".join(f"{share['name']} {share['percent']:.0f} %" for share in traced["concepts"][:3])
            click.echo(f"{image['file']}: {traced['class']} {traced['probability']:.2f} by {strongest}")
    click.echo(f"written to {out}: {PAGE}, {INDEX}")
