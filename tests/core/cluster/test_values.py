"""Values: what is refused, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrain_xai.cluster_config import load_values
from raytrain_xai.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "values.yaml"
    path.write_text("data: {max_replicas: 3}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trian.gpus=2", "unknown key trian; did you mean train?"),
        ("data.max_replica=2", "unknown key data.max_replica; did you mean max_replicas?"),
        ("spot.gpu_typ=L4", "did you mean gpu_type?"),
        ("jobs.one={comand: train}", "did you mean command?"),
        ("data.min_replicas=4", "min_replicas 4 is above max_replicas 3"),
        ("data.memory=16G", "data.memory"),
        ("namespace=Upper", "namespace"),
        ("storage.bucket=s3://b", "storage.bucket"),
        ("storage.endpoint=https://user:secret@host", "storage.endpoint"),
        ("redis.address=user:secret@redis:6379", "redis.address"),
        ("jobs.one={command: train x, workers: 4}", "job one needs 4 workers, data.max_replicas allows 3"),
        ("nightly.one={command: train x, schedule: daily}", "schedule"),
        ("ingress.host=a.example.org", "host needs tls_secret"),
        ("estimate.duty=30", "estimate.duty"),
    ],
)
def test_what_is_wrong_is_named(file: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_values(file, [override])
    assert said in str(caught.value)


def test_two_jobs_of_one_name(file: Path) -> None:
    with pytest.raises(ConfigError, match="a is in jobs and in nightly"):
        load_values(file, ["jobs.a={command: train x}", "nightly.a={command: train x}"])


def test_nothing_to_reach(file: Path) -> None:
    with pytest.raises(ConfigError, match="host without serve"):
        load_values(file, ["ingress={host: a.example.org, tls_secret: t}", "serve=null"])


def test_a_file_says_what_differs_from_another(tmp_path: Path) -> None:
    for name, text in {
        "one.yaml": "data: {cpu: 2, max_replicas: 7}\njobs: {a: {command: train x}}\n",
        "two.yaml": "extends: one.yaml\ndata: {cpu: 3}\nqueue: q\n",
        "three.yaml": "extends: two.yaml\nqueue: null\njobs: {a: {workers: 2}}\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    values = load_values(tmp_path / "three.yaml", ["data.memory=1Gi"])
    assert (values.data.cpu, values.data.max_replicas, values.data.memory, values.queue) == (3, 7, "1Gi", None)
    assert (values.jobs["a"].command, values.jobs["a"].workers) == ("train x", 2)


def test_a_file_cannot_extend_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("extends: a.yaml", encoding="utf-8")
    with pytest.raises(ConfigError, match="extends itself"):
        load_values(tmp_path / "a.yaml")
