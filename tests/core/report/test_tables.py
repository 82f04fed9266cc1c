"""Numbers of a report as text."""

from __future__ import annotations

import pytest

from raytrain_xai.config import parse_config
from raytrain_xai.report.tables import Cell, annotation_text, duration_text, guidance_text, metric_table

MINIMAL = {"name": "a", "epochs": 1, "data": {"path": "d"}, "model": {"name": "resnet18"}}


def test_best_of_each_column_is_marked() -> None:
    table = metric_table(
        "Test",
        [
            {"f1": 0.7126, "epg": 0.30, "empty_maps": 0.02},
            {"f1": 0.7131, "epg": 0.55, "empty_maps": 0.10},
            {"f1": 0.6000, "empty_maps": 0.02},
        ],
    )
    assert table.columns == ["F1", "EPG", "empty maps ↓"]
    assert table.rows == [
        [Cell("71.3", True), Cell("30.0", False), Cell("2.0", True)],  # equal as printed: both best
        [Cell("71.3", True), Cell("55.0", True), Cell("10.0", False)],
        [Cell("60.0", False), Cell("–", False), Cell("2.0", True)],
    ]


def test_nothing_is_best_without_a_contest() -> None:
    assert metric_table("Test", [{"f1": 0.5}]).rows == [[Cell("50.0", False)]]
    assert metric_table("Test", [{"f1": 0.5}, {"f1": 0.5}]).rows == [[Cell("50.0", False)]] * 2


@pytest.mark.parametrize(
    ("model", "guidance", "how", "what"),
    [
        ("resnet18", {}, "none (measured: ixg at Input)", "none"),
        ("bcos_resnet18", {"weight": 0.5, "loss": "ppce"}, "ppce × 0.5, bcos at Input", "100 % of boxes"),
        (
            "resnet18",
            {
                "weight": 1e-3, "attribution": "gradcam", "layer": "Final", "annotated_fraction": 0.1,
                "box_dilation": 0.25, "annotation": "boxes",
            },
            "energy × 0.001, gradcam at Final", "10 % of boxes, dilated by 25 %",
        ),
    ],
)  # fmt: skip
def test_guidance_in_words(model: str, guidance: dict[str, object], how: str, what: str) -> None:
    config = parse_config(MINIMAL | {"model": {"name": model}, "guidance": guidance})
    assert (guidance_text(config), annotation_text(config.guidance)) == (how, what)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3600, "1 h 00 min"), (7630, "2 h 07 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
