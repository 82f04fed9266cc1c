"""A run folder on S3 is measured and reported like a local one; the server is real and on loopback."""

from __future__ import annotations

from typing import Any

import torch

from raytrain_xai.evaluation import measure_run, write_metrics
from raytrain_xai.report.page import write_report
from raytrain_xai.storage import list_names, locate, read_bytes


def test_report_and_metrics_land_in_the_remote_run(make_run: Any, birds: str, s3_storage: str) -> None:
    run = make_run(s3_storage, "remote", birds, guidance={"attribution": "gradcam", "layer": "Final"})
    page = write_report([run])
    metrics = write_metrics(run, measure_run(run, device=torch.device("cpu")))
    assert page.startswith("s3://bucket/runs/remote/report.html?")
    assert {"report.html", "eval"} <= set(list_names(locate(run)))
    assert b"Heatmaps on images of the test split" in read_bytes(locate(page))
    assert b'"f1":' in read_bytes(locate(metrics))
