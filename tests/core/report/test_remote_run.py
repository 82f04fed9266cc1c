"""A run folder on S3 is measured and reported like a local one; the server is real and on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

from raytrain_xai.evaluation import measure_run, write_metrics
from raytrain_xai.report.page import write_report
from raytrain_xai.storage import list_names, locate, read_bytes


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in (("ACCESS_KEY_ID", "t"), ("SECRET_ACCESS_KEY", "t"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
    yield f"s3://bucket/runs?endpoint_override={host}:{port}&scheme=http"
    server.stop()


def test_report_and_metrics_land_in_the_remote_run(make_run: Any, birds: str, storage: str) -> None:
    run = make_run(storage, "remote", birds, guidance={"attribution": "gradcam", "layer": "Final"})
    page = write_report([run])
    metrics = write_metrics(run, measure_run(run, device=torch.device("cpu")))
    assert page.startswith("s3://bucket/runs/remote/report.html?")
    assert {"report.html", "eval"} <= set(list_names(locate(run)))
    assert b"Heatmaps on images of the test split" in read_bytes(locate(page))
    assert b'"f1":' in read_bytes(locate(metrics))
