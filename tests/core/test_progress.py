"""What a person sees of a run."""

from __future__ import annotations

import pytest

from raytrain_xai.cli.progress import describe


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            {"kind": "step", "epoch": 1, "step": 30, "loss": 0.51239, "cls": 0.4, "loc": 0.25, "empty_maps": 0.125,
             "lr": 1e-4, "images_per_s": 81.4, "input_wait": 0.052, "seconds_left": 125.2},
            "epoch 2 step 30: loss 0.5124, cls 0.4, loc 0.25, empty maps 12%, 81 images/s, input wait 5%, 2:05 left",
        ),
        (
            {"kind": "step", "epoch": 0, "step": 1, "loss": 0.5, "cls": 0.5, "lr": 1e-4, "images_per_s": 7.6,
             "input_wait": 0.9, "seconds_left": 3.0},
            "epoch 1 step 1: loss 0.5, cls 0.5, 8 images/s, input wait 90%, 0:03 left",
        ),
        (
            {"kind": "epoch", "epoch": 2, "step": 50, "val": {"f1": 0.9216, "epg": 0.6, "precision": 1.0}},
            "epoch 2 done, validation: f1 0.922, epg 0.600",
        ),
        ({"kind": "event", "epoch": 0, "step": 0, "event": "start", "message": "attempt 1"}, "start: attempt 1"),
    ],
)  # fmt: skip
def test_one_line_per_record(record: dict[str, object], line: str) -> None:
    assert describe(record) == line
