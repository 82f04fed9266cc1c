"""The page of a sweep: sections follow what was swept, numbers are those of the rows, and every run is a link away."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.config import validated
from raytrain_xai.report import sweep_parallel, sweep_planes
from raytrain_xai.report.sweep_curves import build_sensitivity
from raytrain_xai.report.sweep_page import write_sweep_report
from raytrain_xai.report.sweep_planes import build_planes
from raytrain_xai.report.sweep_summary import best_settings, status_text
from raytrain_xai.report.sweep_view import view_sweep
from raytrain_xai.storage import locate, write_bytes
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.table import PointRow, Sweep, TrialRow

HOSTILE = "</script><script>alert(1)</script>"
LOSS, WEIGHT, FRACTION, LAYER = "guidance.loss", "guidance.weight", "guidance.annotated_fraction", "guidance.layer"
Measured = tuple[float, float, float]  # f1, epg, iou


def row(
    trial: str, values: Mapping[str, Any], measured: Measured | None, *, seed: int = 0, strategy: str | None = None,
    status: str = "finished", error: str | None = None, is_baseline: bool = False,
) -> TrialRow:  # fmt: skip
    """Validation is a point better than test, so that a page that confuses them shows."""
    test = {} if measured is None else dict(zip(("f1", "epg", "iou"), measured, strict=True))
    val = {name: value + 0.01 for name, value in test.items()}
    run = trial if is_baseline else f"trials/{trial}"
    return TrialRow(
        trial, status, seed, strategy, values, val, test, run, 2, 60.0, 70.0, error=error, is_baseline=is_baseline
    )


def sweep_of(folder: Path | str, rows: Sequence[TrialRow], **settings: Any) -> Sweep:
    """A sweep of two evaluations per finished trial, the first one worse by .05 in everything."""
    raw = {"name": "sweep", "storage": str(folder), "base": {"guidance": {"layer": "Final"}}, **settings}
    points = [
        PointRow(own.id, epoch * 10, epoch, {name: v - worse for name, v in own.val.items()}, epoch == 2)
        for own in rows
        for epoch, worse in ((1, 0.05), (2, 0.0))
        if own.val
    ]
    return Sweep(locate(str(folder)).child("sweep"), validated(SweepConfig, raw, "test"), rows, points)


def losses(**changes: Any) -> list[TrialRow]:
    """An unguided baseline, a control, two weights of energy and two of L1, of which one failed."""
    return [
        row("baseline/s0", {}, (0.6, 0.3, 0.3), is_baseline=True),
        row("0000-a", {LOSS: "energy", WEIGHT: 0.0}, (0.61, 0.31, 0.31)),
        row("0001-b", {LOSS: "energy", WEIGHT: 0.1}, (0.62, 0.5, 0.35)),
        row("0002-c", {LOSS: "energy", WEIGHT: 1.0}, (0.55, 0.7, 0.4)),
        row("0003-d", {LOSS: "l1", WEIGHT: 0.1}, (0.63, 0.4, 0.45), **changes),
        row("0004-e", {LOSS: "l1", WEIGHT: 1.0}, None, status="failed", error=f"RunError: {HOSTILE}"),
    ]


def page_of(sweep: Sweep, out: str | None = None) -> str:
    return Path(write_sweep_report(sweep, out)).read_text()


def headings(html: str) -> list[str]:
    return [re.sub(r"<[^>]*>", "", heading) for heading in re.findall(r"<h2>(.*?)</h2>", html)]


def rows_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script id="rows" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_sections_follow_what_was_swept(tmp_path: Path) -> None:
    always = ["What was tried, and what did best", "F1 against EPG", "F1 against IoU"]
    end = ["All trials at a glance", "Trials", "Failed trials", "Configuration"]
    assert headings(page_of(sweep_of(tmp_path, losses()))) == [*always, "How strong: the weight", *end]
    coarse = [row(f"{i}", {"guidance.box_dilation": d}, (0.6, 0.5 - d, 0.4)) for i, d in enumerate((0.0, 0.5))]
    assert "How coarse may the boxes be" in headings(page_of(sweep_of(tmp_path, coarse)))
    chosen = [row(f"{s}{n}", {}, (0.6, n, 0.4), seed=n, strategy=s) for s in ("random", "k_centre") for n in (0, 1)]
    html = page_of(sweep_of(tmp_path, chosen, seeds=[0, 1]))
    assert "Which images to annotate" in headings(html)
    assert "Dashes are means over seeds" in html


def test_table_has_every_run_with_its_numbers_and_pages(tmp_path: Path) -> None:
    for run in ("trials/0001-b", "baseline/s0"):
        write_bytes(locate(str(tmp_path / "sweep" / run / "report.html")), b"")
    html = page_of(sweep_of(tmp_path, losses()))
    table = rows_of(html)
    assert [column["label"] for column in table["columns"]] == [
        "trial", "status", "loss", "weight", "seed", "F1, test", "EPG, test", "IoU, test", "F1, val", "EPG, val",
        "IoU, val", "epochs", "training, min", "error",
    ]  # fmt: skip
    by_id = {cells[0]: cells for cells in table["rows"]}
    assert by_id["0001-b"] == [
        "0001-b", "finished", "energy", 0.1, 0, 62.0, 50.0, 35.0, 63.0, 51.0, 36.0, 2, 1.0, None,
        "trials/0001-b/report.html",
    ]  # fmt: skip
    assert by_id["baseline/s0"][1:4] == ["baseline", None, None]
    assert by_id["baseline/s0"][-1] == "baseline/s0/report.html"
    assert by_id["0002-c"][-1] is None  # it has no page
    assert by_id["0004-e"][-2] == f"RunError: {HOSTILE}"
    assert 'href="trials/0001-b/report.html"' in html


def test_nothing_of_others_is_run_or_fetched(tmp_path: Path) -> None:
    html = page_of(sweep_of(tmp_path, losses(), base={"name": HOSTILE}))
    assert html.count("<script") == html.count("</script>") == 2
    assert not re.findall(r"https?://|@import|url\((?!#)", html)
    assert "&lt;/script&gt;" in html  # of the failed trial and of the configuration


def test_links_are_seen_from_the_page(tmp_path: Path) -> None:
    write_bytes(locate(str(tmp_path / "my #1" / "sweep" / "trials" / "0001-b" / "report.html")), b"")
    sweep = sweep_of(tmp_path / "my #1", losses())
    html = page_of(sweep, str(tmp_path / "pages" / "page.html"))
    assert 'href="../my%20%231/sweep/trials/0001-b/report.html"' in html
    elsewhere = view_sweep(sweep, locate("s3://bucket/page.html?endpoint_override=127.0.0.1:1&scheme=http"))
    assert elsewhere.links == {}


def test_best_settings_are_chosen_on_validation_and_shown_on_test(tmp_path: Path) -> None:
    view = view_sweep(sweep_of(tmp_path, losses()), locate(str(tmp_path / "p.html")))
    assert status_text(view) == "5 trials: 4 finished, 1 failed; 6 min 00 s of training"
    shown = {setting.reason: (setting.values, setting.cells) for setting in best_settings(view)}
    assert shown["best F1 and IoU"] == ("loss l1, weight 0.1", ["63.0", "40.0", "45.0"])
    assert shown["best EPG"] == ("loss energy, weight 1", ["55.0", "70.0", "40.0"])
    assert shown["unguided, trained alike"][1] == ["61.0", "31.0", "31.0"]
    assert shown["unguided baseline"] == ("", ["60.0", "30.0", "30.0"])


def test_best_of_what_should_be_small_and_means_over_seeds(tmp_path: Path) -> None:
    rows = [row(f"{k}{s}", {"sae.k": k}, (0.5 + s / 10, k / 100, 0.0), seed=s) for k in (5, 9) for s in (0, 1)]
    sweep = sweep_of(tmp_path, rows, objectives={"epg": "min", "f1": "max"}, seeds=[0, 1])
    [only] = best_settings(view_sweep(sweep, locate(str(tmp_path / "p.html"))))
    assert (only.reason, only.values, only.count) == ("best EPG and F1", "k 5", 2)
    assert only.cells == ["5.0 ± 0", "55.0 ± 7.1"]  # 50 and 60: 55 ± 10 / sqrt 2


def test_planes_show_every_checkpoint_on_validation_and_the_selected_ones_on_test(tmp_path: Path) -> None:
    """Joined in the F1 / EPG plane: both weights of energy at their last epoch, L1 at its last one."""
    view = view_sweep(sweep_of(tmp_path, losses()), locate(str(tmp_path / "p.html")))
    plane = build_planes(view)[0]
    assert plane.title == "F1 against EPG"
    on_val, on_test = plane.charts
    titles = [re.findall(r"<title>(.*?)</title>", chart.svg) for chart in (on_val, on_test)]
    assert [len(found) for found in titles] == [10, 5]
    assert sum("unguided baseline" in title for title in titles[0]) == 2
    full = re.findall(r'<circle [^>]*fill="#[0-9a-f]{6}"><title>(\S+): [^;]*; epoch (\d)', on_val.svg)
    assert sorted(full) == [("0001-b", "2"), ("0002-c", "2"), ("0003-d", "2")]
    assert "0001-b: loss energy, weight 0.1, seed 0; test: F1 62.0, EPG 50.0, IoU 35.0" in titles[1]
    assert on_val.svg.count('<path d="M') > on_val.svg.count("l4.4 4.4") == 4  # diamonds: baseline and control


def test_layers_have_planes_and_levels_of_their_own(tmp_path: Path) -> None:
    """The baseline was measured at Final, so it does not stand beside what was measured at Mid2."""
    rows = [row("baseline/s0", {}, (0.6, 0.3, 0.3), is_baseline=True)] + [
        row(f"{layer}{weight}", {LAYER: layer, WEIGHT: weight}, (0.6, weight, 0.4))
        for layer in ("Final", "Mid2")
        for weight in (0.2, 0.6)
    ]
    view = view_sweep(sweep_of(tmp_path, rows, baseline={}), locate(str(tmp_path / "p.html")))
    charts = {chart.title: chart.svg for chart in build_planes(view)[0].charts}
    assert "unguided baseline" in charts["F1 and EPG, layer Final: selected checkpoints, test"]
    assert "unguided baseline" not in charts["F1 and EPG, layer Mid2: selected checkpoints, test"]
    weights = build_sensitivity(view, WEIGHT, None)
    assert weights is not None
    dashed = {chart.title: "stroke-dasharray" in chart.svg for chart in weights.charts}
    assert dashed["EPG, test; layer Final"]
    assert not dashed["EPG, test; layer Mid2"]
    layers = build_sensitivity(view, LAYER, None)
    assert layers is not None
    assert "stroke-dasharray" not in layers.charts[1].svg


def test_curves_are_means_over_seeds_and_strategies_meet_where_all_is_annotated(tmp_path: Path) -> None:
    def at(strategy: str | None, fraction: float, *epgs: float) -> list[TrialRow]:
        return [
            row(f"{strategy}{fraction}{seed}", {FRACTION: fraction}, (0.6, epg, 0.4), seed=seed, strategy=strategy)
            for seed, epg in enumerate(epgs)
        ]

    rows = [*at("random", 0.1, 0.4, 0.5), *at("k_centre", 0.1, 0.605, 0.615), *at(None, 1.0, 0.61, 0.62)]
    sweep = sweep_of(tmp_path, rows, seeds=[0, 1], strategies=["random", "k_centre"])
    view = view_sweep(sweep, locate(str(tmp_path / "p.html")))
    drawn = build_sensitivity(view, FRACTION, "strategy")
    assert drawn is not None and drawn.is_joined and drawn.drawn == drawn.points == 18
    html = page_of(sweep)
    assert "How many boxes, and which" in headings(html)
    assert "every image annotated</span>" in html
    enough = dict(re.findall(r'<tr><th scope="row">([\w ]+)</th>(<td class="number">.*?)</tr>', html))
    cells = re.findall(r"<b>(.*?)</b>( \(.*?\))?", enough["random"])
    assert cells[1] == ("100 %", " (10 % to 100 %)")  # 10 % lacks 21 and 12 points of EPG: surely or by chance
    assert re.findall(r"<b>(.*?)</b>", enough["k centre"])[1] == "10 %"  # lacks half a point twice


def test_points_that_differ_in_more_than_is_shown_are_not_joined(tmp_path: Path) -> None:
    rows = [row(f"{i}", {"optim.lr": 10.0**-i, "distill.temperature": i % 7}, (0.6, 0.1 * i, 0.4)) for i in range(9)]
    view = view_sweep(sweep_of(tmp_path, rows), locate(str(tmp_path / "p.html")))
    drawn = build_sensitivity(view, "optim.lr", None)
    assert drawn is not None and not drawn.is_joined
    assert len(drawn.charts) == 3
    assert "they are not joined" in page_of(sweep_of(tmp_path, rows))


def test_what_comes_with_the_loss_divides_nothing(tmp_path: Path) -> None:
    rows = [
        row(f"{loss}{dilation}", {LOSS: loss, WEIGHT: weight, "guidance.box_dilation": dilation}, (0.6, 0.5, 0.4))
        for loss, weight in (("energy", 1.0), ("rrr", 1e-4))
        for dilation in (0.0, 0.5)
    ]
    sweep = sweep_of(tmp_path, rows)
    view = view_sweep(sweep, locate(str(tmp_path / "p.html")))
    drawn = build_sensitivity(view, "guidance.box_dilation", LOSS)
    assert drawn is not None and drawn.is_joined and len(drawn.charts) == 3
    assert "How strong: the weight" not in headings(page_of(sweep))
    other = [*rows, row("more", {LOSS: "rrr", WEIGHT: 1e-3, "guidance.box_dilation": 0.0}, (0.6, 0.5, 0.4))]
    assert "How strong: the weight" in headings(page_of(sweep_of(tmp_path, other)))


def test_a_concept_sweep_shows_its_own_objectives(tmp_path: Path) -> None:
    rows = [
        TrialRow(f"{k}-{n}", "finished", 0, None, {"sae.k": k, "sae.latents": n}, own, own, None, 2, 60.0, 70.0)
        for k in (8, 16)
        for n in (256, 512)
        for own in [{"variance_explained": 0.5 + k / 100, "l0": float(k), "dead": n / 8}]
    ]
    sweep = sweep_of(tmp_path, rows, objectives={"variance_explained": "max", "dead": "min"})
    html = page_of(sweep)
    assert headings(html)[1:3] == ["sae.k", "sae.latents"]
    assert "against" not in "".join(headings(html))
    assert "variance explained in percent, test" in html
    assert ["16-256", "finished", 16, 256, 0, 66.0, 32.0, 66.0, 32.0, 2, 1.0, None, None] in rows_of(html)["rows"]


def test_stopped_trials_are_in_the_planes_but_not_compared_on_test(tmp_path: Path) -> None:
    rows = losses()
    rows[4] = row("0003-d", {LOSS: "l1", WEIGHT: 0.1}, (0.63, 0.4, 0.45), status="stopped")
    rows[4] = replace(rows[4], test={})
    view = view_sweep(sweep_of(tmp_path, rows), locate(str(tmp_path / "p.html")))
    assert view.split == "test"
    assert view.measured(rows[4], "f1") is None
    assert "0003-d" in build_planes(view)[0].charts[0].svg
    assert "0003-d" not in build_planes(view)[0].charts[1].svg


def test_a_sweep_that_only_began_has_a_page(tmp_path: Path) -> None:
    rows = [row("0000-a", {WEIGHT: 0.1}, None, status="unfinished"), row("0001-b", {WEIGHT: 1}, None, status="failed")]
    html = page_of(sweep_of(tmp_path, rows))
    assert headings(html) == ["What was tried, and what did best", "Trials", "Failed trials", "Configuration"]
    assert "no reason was recorded" in html
    assert headings(page_of(sweep_of(tmp_path, [])))[-1] == "Configuration"


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(f"{i:03d}", {"optim.lr": 10 ** (-4 + i / 60)}, (i / 130, 0.5, i / 130)) for i in range(120)]
    sweep = sweep_of(tmp_path, rows)
    assert "drawn" not in page_of(sweep)
    monkeypatch.setattr(sweep_planes, "MOST_POINTS", 40)
    monkeypatch.setattr(sweep_parallel, "MOST_LINES", 30)
    html = page_of(sweep)
    said = re.search(r"(\d+) of 360 points are drawn", html)  # 240 checkpoints and 120 selected ones
    assert said is not None and int(said[1]) <= 80
    assert int(said[1]) == sum(len(re.findall("<circle", c.svg)) for c in build_planes(
        view_sweep(sweep, locate(str(tmp_path / "p.html"))))[0].charts)  # fmt: skip
    lines = re.search(r"(\d+) of 120 trials are drawn", html)
    assert lines is not None and int(lines[1]) == html.count("<polyline")


def test_equal_sweeps_give_equal_pages(tmp_path: Path) -> None:
    assert page_of(sweep_of(tmp_path, losses())) == page_of(sweep_of(tmp_path, losses()))
