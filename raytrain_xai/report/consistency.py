"""C2-scores as ``c2.json`` and a picture: how the consistency of concepts is distributed, against baselines."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from raytrain_xai.concept_runs.scores import Scores, SourceScore
from raytrain_xai.concept_runs.scoring import OURS, ScoreJob
from raytrain_xai.concepts.c2 import MIN_COUNTED
from raytrain_xai.report.curves import Distribution, distribution_chart
from raytrain_xai.storage import Location, write_bytes

FORMAT_VERSION = 1
INDEX, PICTURE = "c2.json", "c2.png"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def write_scores(folder: Location, job: ScoreJob, scores: Scores) -> None:
    """Write ``c2.json`` and ``c2.png`` into a folder (local or s3://); old ones are replaced.

    Raises:
        DataError: the folder cannot be written.
    """
    index = score_index(job, scores)
    write_bytes(folder.child(INDEX), (json.dumps(index, indent=1, allow_nan=False) + "\n").encode())
    shown = [
        Distribution(source.name, position, source.counted.tolist(), source.mean_consistency)
        for position, source in enumerate(scores.sources)
        if len(source.counted)
    ]
    if shown:
        random = _number(float(scores.random.nanmean()))
        write_bytes(folder.child(PICTURE), distribution_chart(shown, "consistency of a concept", random))


def score_index(job: ScoreJob, scores: Scores) -> dict[str, Any]:
    """The content of ``c2.json``; numbers that do not exist are null."""
    per_group = scores.random.mean(dim=0)
    there = per_group[per_group.isfinite()]
    return {
        "format_version": FORMAT_VERSION,
        "job": asdict(job),
        "images": scores.num_images,
        "counted_from": MIN_COUNTED,
        "random": {
            "consistency": _number(float(there.mean())),
            "std_over_draws": _number(float(scores.random.nanmean(dim=1).std())),
            "std_over_classes": _number(float(there.std())) if len(there) > 1 else None,
            "classes": {name: _number(float(per_group[g])) for g, name in enumerate(scores.groups)},
        },
        "sources": {source.name: _source(source, scores) for source in scores.sources},
    }


def _source(source: SourceScore, scores: Scores) -> dict[str, Any]:
    counted = source.counted
    spread = torch.quantile(counted, torch.tensor(QUANTILES, dtype=counted.dtype)).tolist() if len(counted) else ()
    columns = (source.concept, source.group, source.consistency, source.images)
    return {
        "c2": _number(source.c2),
        "consistency": _number(source.mean_consistency),
        "quantiles": {f"{100 * q:g}": value for q, value in zip(QUANTILES, spread, strict=False)},
        "concepts": source.num_concepts,
        "counted": len(counted),
        "scores": [
            {
                "id": concept,
                **({"name": scores.names[concept]} if source.name == OURS and concept in scores.names else {}),
                **({"class": scores.groups[group]} if scores.groups else {}),
                "consistency": round(consistency, 6),
                "images": images,
            }
            for concept, group, consistency, images in _rows(columns)
        ],
    }


def _rows(columns: Sequence[torch.Tensor]) -> zip[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
