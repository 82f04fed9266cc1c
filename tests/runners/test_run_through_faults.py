"""Training, resuming and serving when every tenth request to the bucket fails: the bits are those of a quiet one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from faulty_storage import FaultyStorage, at_random, faulty_storage

from raytrain_xai.config import RunConfig
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.scenes import SceneOptions, read_scenes_birds
from raytrain_xai.errors import XaiError
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.serving.model_store import load_served
from raytrain_xai.serving.served_model import ModelKey, RunAddress, ServedModel
from raytrain_xai.storage import list_names, locate, patience, read_bytes, write_bytes
from raytrain_xai.verification import verify

MakeConfig = Callable[..., RunConfig]
WEIGHTS = ("checkpoints", "step-00000006", "model.safetensors")


@pytest.fixture
def proxy(s3_storage: str) -> Iterator[FaultyStorage]:
    """In front of a server with a bucket; at first it only forwards."""
    server = s3_storage.partition("endpoint_override=")[2].partition("&")[0]
    with faulty_storage(server, lambda *_: None) as state:
        yield state


def test_a_run_through_faults_has_the_bits_of_a_quiet_one(proxy: FaultyStorage, make_config: MakeConfig) -> None:
    options = f"endpoint_override={proxy.address}&scheme=http"
    prepare(read_scenes_birds(None, SceneOptions(num_train=24, size=48)), f"s3://bucket/birds?{options}", shard_rows=10)
    quiet = make_config(name="quiet")
    start_run(quiet, Launch("local", [].append))
    proxy.choose = at_random(0.1, ("500", "503", "delay", "reset", "truncate"), seed=1)
    config = make_config(
        name="rough", storage=f"s3://bucket/runs?{options}", data={"path": f"s3://bucket/birds?{options}"}
    )
    start_run(config, Launch("local", [].append))
    run, local = locate(config.storage).child("rough"), locate(quiet.storage).child("quiet")
    assert read_bytes(run.child(*WEIGHTS)) == read_bytes(local.child(*WEIGHTS))
    assert all(verdict.problem is None for verdict in verify(run))
    address = RunAddress(run.uri)
    served = [load_served(ModelKey("birds", "1"), each) for each in (address, RunAddress(local.uri))]
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    answers: list[torch.Tensor] = []
    for each in served:
        assert isinstance(each, ServedModel)
        with torch.no_grad():
            answers.append(each.explainer.network(images))
    assert torch.equal(*answers)
    assert set(proxy.faults()) == {"500", "503", "delay", "reset", "truncate"}


def test_an_outage_in_the_middle_ends_the_run_and_it_is_resumed(
    proxy: FaultyStorage, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third checkpoint on nothing can be written; the second one is whole, and the run goes on from it."""
    quiet = make_config(name="quiet", checkpoint={"every_steps": 2})
    start_run(quiet, Launch("local", [].append))
    config = make_config(
        name="cut", storage=f"s3://bucket/runs?endpoint_override={proxy.address}&scheme=http",
        checkpoint={"every_steps": 2},
    )  # fmt: skip
    monkeypatch.setenv(patience.WAIT, "0")
    proxy.choose = lambda method, path, _: "503" if method == "PUT" and "step-00000006" in path else None
    with pytest.raises(XaiError, match=r"cannot write s3://bucket/runs/cut/checkpoints/step-00000006/.*gave up after"):
        start_run(config, Launch("local", [].append))
    run = locate(config.storage).child("cut")
    assert "step-00000004" in list_names(run.child("checkpoints"))
    proxy.choose = lambda *_: None
    resume_run(run.uri, [], Launch("local", [].append))
    local = locate(quiet.storage).child("quiet")
    assert read_bytes(run.child(*WEIGHTS)) == read_bytes(local.child(*WEIGHTS))


def test_damage_of_a_checkpoint_is_found(make_config: MakeConfig) -> None:
    config = make_config(name="whole")
    start_run(config, Launch("local", [].append))
    run = locate(config.storage).child("whole")
    assert [verdict.problem for verdict in verify(run)] == [None, None]
    weights = run.child(*WEIGHTS)
    content = bytearray(read_bytes(weights))
    content[-1] ^= 1
    write_bytes(weights, bytes(content))
    [whole, damaged] = verify(run)
    assert whole.problem is None
    assert damaged.name == "checkpoints/step-00000006" and "model.safetensors differs" in str(damaged.problem)
