"""Scores of an encoder and of its concepts as JSON: what ``raytrain-xai insight score`` writes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from raytrain_xai.insight.task_scores import ScorePlan, TaskScore, TaskScores
from raytrain_xai.storage import Location, write_bytes

FORMAT_VERSION = 1


def write_task_scores(at: Location, run: str, plan: ScorePlan, scores: TaskScores) -> None:
    """Write one JSON object; numbers that do not exist are null.

    Raises:
        DataError: the place cannot be written.
    """
    record = {
        "format_version": FORMAT_VERSION,
        "run": run,
        "plan": asdict(plan),
        "images": scores.images,
        "masks": scores.masks,
        "classes_counted": [n for n, is_in in zip(scores.classes, scores.is_counted.tolist(), strict=True) if is_in],
        "variance_explained": _number(scores.variance_explained),
        "active": scores.active,
        "encoder": _record(scores, scores.encoder),
        "concepts": _record(scores, scores.concepts),
        "kept": {name: _number(value) for name, value in scores.kept().items()},
    }
    write_bytes(at, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def _record(scores: TaskScores, score: TaskScore) -> dict[str, Any]:
    columns = (score.precision.tolist(), score.iou.tolist(), score.iou_with_background[1:].tolist())
    return {
        **{name: _number(value) for name, value in scores.means(score).items()},
        "background_iou": _number(float(score.iou_with_background[0])),
        "classes": {
            name: dict(zip(("ap", "iou", "iou_background"), map(_number, values), strict=True))
            for name, *values in zip(scores.classes, *columns, strict=True)
        },
    }


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
