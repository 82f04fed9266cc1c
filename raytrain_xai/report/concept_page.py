"""The report of concept runs: what the concepts cost the network, and what became of the dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raytrain_xai import __version__
from raytrain_xai.concept_config import AnySae, JumpReluSection, ReluSection
from raytrain_xai.errors import ConfigError
from raytrain_xai.report.curves import Series, colour_of, frequency_chart, line_chart
from raytrain_xai.report.pages import page_environment
from raytrain_xai.report.runs import ConceptRecord, differences, kind_of, page_target, read_concept_runs
from raytrain_xai.report.tables import METRICS, duration_text
from raytrain_xai.report.trace_section import TraceSection, build_trace_section
from raytrain_xai.storage import write_bytes

_DICTIONARY = (
    ("variance_explained", "variance explained", "{:.1%}"),
    ("l0", "active at a position", "{:.1f}"),
    ("image_l0", "active in an image", "{:.1f}"),
    ("carriers", "carry 80 %", "{:.1f}"),
    ("dead", "never active", "{:.0f}"),
    ("always_on", "always on", "{:.0f}"),
    ("residual", "residual", "{:.1e}"),
)
_TRAINING = (
    ("squared_error", "Reconstruction error, share of the mean squared length"),
    ("variance_explained", "Variance explained, training vectors"),
    ("dead", "Dead concepts"),
)
_VALIDATION = (
    ("f1", "F1, validation"),
    ("accuracy", "Accuracy, validation"),
    ("carriers", "Concepts that carry 80 %, validation"),
)


@dataclass(frozen=True)
class Difference:
    """Metrics of one run on one split, in percent: without concepts, with them, and what they change in points."""

    run: int
    before: list[str]
    plugged: list[str]
    change: list[str]


@dataclass(frozen=True)
class Comparison:
    """Metrics of a split: headings, and one entry per run."""

    caption: str
    columns: list[str]
    rows: list[Difference]


def write_concept_report(runs: Sequence[str], out: str | None = None, *, data: str | None = None) -> str:
    """Write one self-contained page about one concept run or several.

    Args:
        runs: run folders, local or s3://.
        out: file to write, local or s3://; by default ``report.html`` in the folder of a single run, else in the
            current directory.
        data: stored data set of the traced images; by default the one the concepts were trained on.
    Returns:
        Address of the page.
    Raises:
        ConfigError: not a run, a run given twice, or a classifier's among them.
        CheckpointError: a run is not finished, or a file of it is damaged.
    """
    others = [uri for uri in runs if kind_of(uri) != "concepts"]
    if others:
        raise ConfigError(f"{', '.join(others)} is no concept run like the others; make a report for each kind")
    records = read_concept_runs(runs)
    target = page_target(records, out)
    traces = build_trace_section(runs, data=data) if len(runs) == 1 else None
    write_bytes(target, render_concepts(records, traces).encode())
    return target.uri


def render_concepts(runs: Sequence[ConceptRecord], traces: TraceSection | None = None) -> str:
    """The page as text; ``traces`` of the images of a single run."""
    environment = page_environment()
    split = "test" if all("test" in run.final for run in runs) else "val"
    return environment.get_template("concept_run.html.j2").render(
        title=runs[0].label if len(runs) == 1 else f"{len(runs)} concept runs compared",
        version=__version__,
        split=split,
        runs=[
            {"label": run.label, "colour": colour_of(position), "essentials": essentials(run)}
            for position, run in enumerate(runs)
        ],
        comparisons=[
            compare(caption, runs, name)
            for name, caption in (("test", "Test split"), ("val", "Validation split, at the selected checkpoint"))
            if all(name in run.final for run in runs)
        ],
        headings=[heading for _, heading, _ in _DICTIONARY],
        dictionary=[[text.format(run.final[split][key]) for key, _, text in _DICTIONARY] for run in runs],
        traces=traces,
        frequency=_frequency(runs),
        charts=_charts(runs),
        differences=differences([run.config for run in runs]),
    )


def essentials(run: ConceptRecord) -> dict[str, str]:
    """What defines a run, in words: heading -> text."""
    config = run.config
    store = config.features.store
    return {
        "network": config.network,
        "layer": config.layer,
        "dictionary": f"{config.sae.latents} concepts, {sparsity_text(config.sae)}",
        "vectors": "straight from the network" if store is None else f"exported to {store}",
        "epochs": str(config.epochs),
        "batch": str(config.batch_size),
        "rate": f"{config.optim.lr:g}",
        "workers": f"{config.workers} ({config.parallel})" if config.workers > 1 else str(config.workers),
        "training time": duration_text(run.training_s()),
        "selected checkpoint": f"epoch {run.final['selected']['epoch']}, step {run.final['selected']['step']}",
    }


def sparsity_text(sae: AnySae) -> str:
    """What makes the codes of a dictionary sparse."""
    match sae:
        case ReluSection():
            return f"ReLU, L1 × {sae.l1_weight:g}"
        case JumpReluSection():
            return f"JumpReLU, L0 × {sae.l0_weight:g}"
        case _:
            return f"{'TopK' if sae.kind == 'topk' else 'BatchTopK'} with k = {sae.k}"


def compare(caption: str, runs: Sequence[ConceptRecord], split: str) -> Comparison:
    """Metrics of a split before and after the concepts were plugged in."""
    before, after = ([values[split] for values in side] for side in ([r.final["before"] for r in runs], _finals(runs)))
    present = [(key, heading) for key, heading, _ in METRICS if any(key in own for own in after)]
    rows = [
        Difference(
            run=run,
            before=[_percent(a.get(key)) for key, _ in present],
            plugged=[_percent(b.get(key)) for key, _ in present],
            change=[f"{100 * (b[key] - a[key]):+.1f}" if key in a and key in b else "–" for key, _ in present],
        )
        for run, (a, b) in enumerate(zip(before, after, strict=True))
    ]
    return Comparison(caption, [heading for _, heading in present], rows)


def _finals(runs: Sequence[ConceptRecord]) -> list[Mapping[str, Mapping[str, float]]]:
    return [run.final for run in runs]


def _charts(runs: Sequence[ConceptRecord]) -> list[dict[str, str]]:
    curves = [(title, [run.training_curve(name) for run in runs]) for name, title in _TRAINING]
    curves += [(title, [run.validation_curve(name) for run in runs]) for name, title in _VALIDATION]
    charts: list[dict[str, str]] = []
    for title, points in curves:
        series = [Series(run, x, y) for run, (x, y) in enumerate(points) if x]
        if series:
            charts.append({"title": title, "svg": line_chart(title, series)})
    return charts


def _frequency(runs: Sequence[ConceptRecord]) -> str:
    histograms = [run.final["dictionary"] for run in runs]
    counts = [histogram["counts"] for histogram in histograms]
    return frequency_chart("How many concepts are active how often", histograms[0]["edges"], counts)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
