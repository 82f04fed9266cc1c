"""The report: one HTML file with everything in it, readable years later and without a network."""

from __future__ import annotations

from collections.abc import Sequence

from raytrain_xai import __version__
from raytrain_xai.errors import ConfigError
from raytrain_xai.explain import Explainer, available_device
from raytrain_xai.report.concept_page import write_concept_report
from raytrain_xai.report.curves import Series, colour_of, front_chart, group_chart
from raytrain_xai.report.distill_section import build_distill_section
from raytrain_xai.report.gallery import build_gallery
from raytrain_xai.report.overlay import data_uri
from raytrain_xai.report.pages import page_environment
from raytrain_xai.report.run_charts import run_charts
from raytrain_xai.report.runs import RunRecord, check_pages, differences, kind_of, page_target, read_runs
from raytrain_xai.report.tables import AGREEMENT, Table, essentials, metric_table
from raytrain_xai.report.trace_section import TraceSection, build_trace_section
from raytrain_xai.storage import write_bytes

_GROUP = "group_"
_TRAINING = (("loss", "Training loss, all parts"), ("cls", "Classification loss"), ("loc", "Localisation loss"))
_VALIDATION = (
    ("f1", "F1, validation"),
    ("epg", "EPG, validation"),
    ("iou", "IoU, validation"),
    ("worst_group", "Worst group, validation"),
)
_READING = (
    "EPG is the share of a heatmap's positive evidence that lies inside the object's boxes, IoU how well the "
    "thresholded heatmap matches them, worst group the accuracy of the sub-population that fares worst; all in "
    "percent, the best marked, higher better except for empty maps (heatmaps without positive evidence). A run that "
    "looks at the right thing gains EPG without losing F1, and gains worst-group accuracy where background and class "
    "are confounded."
)


def write_report(
    runs: Sequence[str], out: str | None = None, *, data: str | None = None, concepts: Sequence[str] = ()
) -> str:
    """Write one self-contained page about one run or several; see also :func:`write_concept_report`.

    Args:
        runs: run folders, local or s3://, of one kind; they must have been trained on the same classes.
        out: file to write, local or s3://; by default ``report.html`` in the folder of a single run, else in the
            current directory.
        data: stored data set that the pictures are taken from; by default that of the first run.
        concepts: concept runs of one network, whose traces of two images of their own data are shown besides.
    Returns:
        Address of the page.
    Raises:
        ConfigError: not a run, a run given twice, of a kind without a page, or runs of different classes.
        CheckpointError: a run is not finished, or a file of it is damaged.
        DataError: the data set cannot be read.
    """
    check_pages(runs)
    if any(kind_of(uri) == "concepts" for uri in runs):
        if concepts:
            raise ConfigError("the report of a concept run shows its traces anyway; leave --concepts out")
        return write_concept_report(runs, out, data=data)
    records = read_runs(runs)
    explainers = [Explainer.load(uri, device=available_device()) for uri in runs]
    _check_same_classes(records, explainers)
    target = page_target(records, out)
    traces = build_trace_section(concepts) if concepts else None
    page = render(records, explainers, data or records[0].config.data.evaluated, traces)
    write_bytes(target, page.encode())
    return target.uri


def render(
    runs: Sequence[RunRecord], explainers: Sequence[Explainer], data: str, traces: TraceSection | None = None
) -> str:
    """The page as text; arguments as read by :func:`write_report`, one explainer per run."""
    environment = page_environment()
    environment.filters["data_uri"] = data_uri
    split = "test" if all("test" in run.final for run in runs) else "val"
    gallery = build_gallery(explainers, data, split)
    return environment.get_template("report.html.j2").render(
        title=runs[0].label if len(runs) == 1 else f"{len(runs)} runs compared",
        version=__version__,
        runs=[
            {"label": run.label, "colour": colour_of(position), "essentials": essentials(run)}
            for position, run in enumerate(runs)
        ],
        reading=_READING,
        tables=_tables(runs),
        gallery=gallery,
        traces=traces,
        split=split,
        group_chart=_groups(runs, split),
        distillation=build_distill_section(runs),
        similarity={},
        charts=run_charts(runs, _TRAINING, _VALIDATION),
        front=_front(runs),
        differences=differences([run.config for run in runs]),
    )


def _check_same_classes(runs: Sequence[RunRecord], explainers: Sequence[Explainer]) -> None:
    for run, explainer in zip(runs, explainers, strict=True):
        if explainer.classes != explainers[0].classes:
            raise ConfigError(
                f"{runs[0].at.uri} and {run.at.uri} were trained on different classes "
                f"({', '.join(explainers[0].classes)}; {', '.join(explainer.classes)}); make a report for each"
            )


def _tables(runs: Sequence[RunRecord]) -> list[Table]:
    captions = {"test": "Test split", "val": "Validation split, at the measured checkpoint"}
    measured = {split: [run.final.get(split, {}) for run in runs] for split in captions}
    tables = [metric_table(captions[split], metrics) for split, metrics in measured.items() if any(metrics)]
    with_teacher = [split for split, metrics in measured.items() if any("agreement" in own for own in metrics)]
    return tables + [
        metric_table(f"Compared with the teacher. {captions[split]}", measured[split], AGREEMENT)
        for split in with_teacher
    ]


def _front(runs: Sequence[RunRecord]) -> str | None:
    series: list[Series] = []
    for position, run in enumerate(runs):
        points = [point for point in run.evaluated if "epg" in point]
        x, y = [point["f1"] for point in points], [point["epg"] for point in points]
        if points:
            series.append(Series(position, x, y, [point["on_front"] for point in points]))
    return front_chart("F1 against EPG of every evaluated checkpoint", series) if series else None


def _groups(runs: Sequence[RunRecord], split: str) -> str | None:
    """Bars of the groups that every run measured."""
    names = [key for key in runs[0].final[split] if key.startswith(_GROUP) and all(key in r.final[split] for r in runs)]
    if not names:
        return None
    values = [[run.final[split][name] for name in names] for run in runs]
    return group_chart("Accuracy per group", [name.removeprefix(_GROUP) for name in names], values)
