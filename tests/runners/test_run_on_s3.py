"""A run whose folder is on S3: a real HTTP server on loopback, the same guarantees."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from raytrain_xai.checkpoint import load_network
from raytrain_xai.config import RunConfig
from raytrain_xai.errors import ConfigError
from raytrain_xai.runners import loop
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.storage import Location, list_names, locate, read_bytes

MakeConfig = Callable[..., RunConfig]


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of an empty bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
    yield f"s3://bucket/team/runs?endpoint_override={host}:{port}&scheme=http"
    server.stop()


def names(run: Location, *below: str) -> list[str]:
    return list_names(run.child(*below))


def test_a_run_on_s3_is_killed_resumed_and_used(
    bucket: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = make_config(name="straight")
    start_run(straight, Launch("local", [].append))
    config = make_config(storage=bucket, tracking={"tensorboard": True}, checkpoint={"every_steps": 2})
    run = locate(bucket).child("run")
    real, calls = loop.apply_gradients, 0

    def apply_or_die(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Killed
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "apply_gradients", apply_or_die)
        with pytest.raises(Killed):
            start_run(config, Launch("local", [].append))
    assert names(run, "checkpoints") == ["step-00000003", "step-00000004"]
    with pytest.raises(ConfigError, match=r"name 'run' is taken.*raytrain-xai resume s3://bucket/team/runs/run\?"):
        start_run(config, Launch("local", [].append))

    resume_run(run.uri, [], Launch("local", [].append))
    local = locate(straight.storage).child("straight", "checkpoints", "step-00000006", "model.safetensors")
    assert read_bytes(run.child("checkpoints", "step-00000006", "model.safetensors")) == read_bytes(local)
    lines = read_bytes(run.child("metrics.jsonl")).decode().splitlines()
    assert [r["step"] for r in map(json.loads, lines) if r["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert len(names(run, "attempts")) == 2
    assert len(names(run, "tensorboard")) >= 1
    *_, metrics = load_network(run.uri)
    assert {"val", "test"} <= metrics.keys()
