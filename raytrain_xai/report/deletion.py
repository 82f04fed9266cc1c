"""Results of a deletion study as JSON and a picture."""

from __future__ import annotations

import json
from typing import Any

from raytrain_xai.concept_runs.deletion import DeletionStudy
from raytrain_xai.concepts.deletion import DeletionCurve
from raytrain_xai.report.curves import step_chart
from raytrain_xai.storage import Location, write_bytes

INDEX, PICTURE = "deletion.json", "deletion.png"
FORMAT_VERSION = 1


def write_deletion(folder: Location, study: DeletionStudy) -> None:
    """Write ``deletion.json`` and ``deletion.png`` into a folder."""
    record = {
        "format_version": FORMAT_VERSION,
        "layer": study.tap,
        "data": study.data,
        "split": study.split,
        "images": study.images,
        "protected": study.protected,
        "measures": {name: _record(curve) for name, curve in study.curves.items()},
    }
    write_bytes(folder.child(INDEX), (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    write_bytes(folder.child(PICTURE), deletion_chart(study)[1])


def deletion_chart(study: DeletionStudy) -> tuple[str, bytes]:
    """Mean logit over the number of deleted concepts, one line per order: ``<svg>`` element and PNG."""
    curves = list(study.curves.values())
    return step_chart(
        "Mean logit of the predicted class after deleting concepts, per order of deletion",
        list(study.curves),
        curves[0].deleted,
        [(curve.logit / curve.images).tolist() for curve in curves],
        ("concepts deleted, most important first", "logit minus bias"),
    )


def _record(curve: DeletionCurve) -> dict[str, Any]:
    return {
        "deleted": curve.deleted,
        "logit": (curve.logit / curve.images).tolist(),
        "same_prediction": (curve.kept / curve.images).tolist(),
        "area": curve.area,
    }
