"""Pages about teachers and students: what they say, their numbers beside them, and reports of distilled runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from raytrain_xai.cli.distill import distill_group
from raytrain_xai.config import DistillConfig
from raytrain_xai.data.loader import load_samples
from raytrain_xai.distill.agreement import evaluate_agreement, summarise_agreement
from raytrain_xai.distill.teacher import LiveTeacher
from raytrain_xai.errors import ConfigError
from raytrain_xai.explain import Explainer
from raytrain_xai.report.distill_page import write_comparison
from raytrain_xai.report.distill_section import build_distill_section, distill_terms
from raytrain_xai.report.gallery import NUM_IMAGES
from raytrain_xai.report.page import write_report
from raytrain_xai.report.pages import record_beside
from raytrain_xai.report.runs import read_runs

AGREEMENT = {"agreement": 0.75, "similarity": -0.125, "empty_explanations": 0.0, "divergence": 0.5}


def taught(make_run: Any, folder: Path, name: str, data: str, teacher: str, **distill: Any) -> str:
    """A run that logged what it learned from its teacher."""
    run = make_run(
        folder, name, data, model="bcos_resnet_tiny", seed=len(name),
        test={"f1": 0.6, "epg": 0.25, **AGREEMENT}, distill={"teacher": teacher, **distill},
        evaluation={"select": "last"},
    )  # fmt: skip
    log = Path(run) / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records:
        if record["kind"] == "step":
            record |= {"kd": 0.5} | ({"exp": 0.75} if distill.get("explanation_weight") else {})
        elif record["kind"] == "epoch":
            record["val"] |= AGREEMENT
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


@pytest.fixture(scope="module")
def runs(make_run: Any, birds: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A teacher, its student by answers and its student by explanations too."""
    folder = tmp_path_factory.mktemp("runs")
    teacher = make_run(folder, "teacher", birds, model="bcos_resnet_tiny")
    return [
        teacher,
        taught(make_run, folder, "kd", birds, teacher),
        taught(make_run, folder, "e2kd", birds, teacher, explanation_weight=5.0, explain_every=4),
    ]


@pytest.fixture(scope="module")
def page(runs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "compare.html"
    result = CliRunner().invoke(distill_group, ["compare", *runs, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.output == f"written to {out} and {out.with_suffix('.json')}\n"
    return out


def test_the_page_has_every_section(page: Path) -> None:
    html = page.read_text()
    for text in (
        "Teacher and 2 students", "Measured on split test", "Compared with the teacher", "Accuracy per group",
        "What the students learned", "L_KD, answers", "L_exp, explanations", "What differs",
        "Agreement with the teacher, validation", "Explanation similarity, validation",
    ):  # fmt: skip
        assert text in html, text
    assert html.count("<article") == NUM_IMAGES
    assert html.count("heatmap of") == 3 * NUM_IMAGES
    assert "<script" not in html
    assert "http" not in html


def test_the_numbers_beside_the_page(page: Path, runs: list[str], birds: str) -> None:
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert (numbers["data"], numbers["split"], numbers["teacher"]["source"]) == (birds, "test", runs[0])
    assert [one["label"] for one in numbers["students"]] == ["kd", "e2kd"]
    explainers = [Explainer.load(run) for run in runs]
    batch, _ = load_samples(birds, "test", list(range(12)), 32)
    for one, student in zip(numbers["students"], explainers[1:], strict=True):
        state = evaluate_agreement(
            student.network, LiveTeacher(explainers[0].network, "weights"), [batch], device=torch.device("cpu")
        )
        for name, value in summarise_agreement(state, "multiclass").items():
            assert one["metrics"][name] == pytest.approx(value, abs=1e-6)
        assert f"{100 * one['metrics']['similarity']:.1f}</td>" in page.read_text()


def test_cosines_of_the_shown_images(page: Path, runs: list[str], birds: str) -> None:
    """Of the class above the pictures, one per student: by the linear maps of one image."""
    article = page.read_text().split("<article")[1]
    shown = re.findall(r"heatmap of e2kd for (\w+)", article)[0]
    name = re.findall(r"· image ([^<]+)</span>", article)[0]
    batch, _ = load_samples(birds, "test", [name], 32)
    maps: list[torch.Tensor] = []
    for run in (runs[0], runs[2]):
        explainer = Explainer.load(run)
        with torch.no_grad():
            logits, pullback = explainer.network.linearise_from(explainer.network.encode(batch.images), "Input")
            selected = torch.zeros_like(logits)
            selected[0, explainer.class_index(shown)] = 1
            maps.append(pullback(selected, None).flatten().double())
    cosine = float(maps[0] @ maps[1] / (maps[0].norm() * maps[1].norm()))
    assert re.findall(r"cosine&nbsp;(-?[\d.]+)", article)[1] == f"{cosine:.2f}"


def test_the_report_of_a_distilled_run_names_its_teacher(runs: list[str], tmp_path: Path) -> None:
    html = Path(write_report(runs, str(tmp_path / "report.html"))).read_text()
    assert "<h2>Distillation</h2>" in html
    assert "Compared with the teacher. Test split" in html
    assert "-12.5</td>" in html
    assert f"<td>{runs[0]}</td>" in html
    assert "× 5, by architecture, every 4 steps" in html


def test_a_report_without_teacher_has_no_such_section(runs: list[str], tmp_path: Path) -> None:
    html = Path(write_report(runs[:1], str(tmp_path / "report.html"))).read_text()
    assert "Distillation" not in html
    assert "teacher" not in html.replace(read_runs(runs[:1])[0].label, "")


def test_section_by_run(runs: list[str]) -> None:
    records = read_runs(runs)
    assert build_distill_section(records[:1]) is None
    section = build_distill_section(records)
    assert section is not None
    assert section.rows[0] == ["–"] * len(section.headings)
    assert section.rows[1][section.headings.index("L_exp")] == "–"
    assert [chart.title for chart in section.charts][:2] == ["L_KD, answers", "L_exp, explanations (1 − cosine)"]


def test_terms_in_words() -> None:
    cached = DistillConfig(
        teacher="t", cache="s3://c", kd_weight=0, explanation_weight=0.2, explanation="gradcam", truth_weight=1
    )
    assert distill_terms(cached) == {
        "teacher": "t", "answers come": "from s3://c", "L_KD": "–", "L_exp": "× 0.2, gradcam", "labels": "× 1",
        "baseline": "–",
    }  # fmt: skip
    other = DistillConfig(teacher="t", temperature=5, baseline="attention_transfer", baseline_weight=2)
    terms = distill_terms(other)
    assert (terms["L_KD"], terms["baseline"]) == ("× 1, softmax, τ 5", "attention_transfer × 2")


def test_a_page_must_be_one(runs: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        write_comparison(runs[0], runs[1:], str(tmp_path / "page"))
    assert record_beside("s3://b/p.html?endpoint_override=h:1") == "s3://b/p.json?endpoint_override=h:1"
    assert record_beside("a?.html") == "a?.json"
