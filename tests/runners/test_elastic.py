"""Runs on nodes that come and go: notices of preemption, fewer workers and more, waiting with an end, signals."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from driver import driver
from ray_nodes import Node, Nodes, nodes
from torch import Tensor
from written import folder, records

from bench.processes import descendants
from raytrain_xai.config import RunConfig
from raytrain_xai.errors import StoppedError
from raytrain_xai.models.zoo import build_network
from raytrain_xai.runners.stop import StopRequest
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.runners.worker import Halt

MakeConfig = Callable[..., RunConfig]
pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(1500)]
_LOOKS_OFTEN = "from raytrain_xai.runners import ray_train; ray_train._RESIZE_CHECK_S = 2.0"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head without CPUs and two nodes of one CPU each; tests leave it with two."""
    with nodes(2) as machines:
        yield machines


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in a worker with one CPU; other numbers of threads add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(config: RunConfig) -> str:
    file = Path(config.storage).parent / f"{config.name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return str(file)


def tensors(config: RunConfig, step: int) -> dict[str, Tensor]:
    at = folder(config) / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    return {name: value for name, value in safetensors.torch.load_file(at).items() if value.is_floating_point()}


def stop_at(config: RunConfig, step: int) -> None:
    """Train in this process up to a step."""
    request = StopRequest()

    def publish(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == step:
            request.ask(Halt("stop", "the test"))

    with pytest.raises(StoppedError):
        start_run(config, Launch("local", publish, stop=request))


def node_id(node: Node) -> str:
    """As its raylet was told."""
    for pid in descendants(node.process.pid):
        found = re.search(rb"--node_id=([0-9a-f]+)", Path(f"/proc/{pid}/cmdline").read_bytes())
        if found is not None:
            return found[1].decode()
    raise AssertionError("the node has no raylet")


def drain(cluster: Nodes, name: str) -> None:
    """Announce, as a provider of spot machines does, that a node will be taken away."""
    subprocess.run(
        [
            str(Path(sys.executable).parent / "ray"), "drain-node", "--address", cluster.address, "--node-id", name,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
            "--deadline-remaining-seconds", "120",
        ],
        check=True, capture_output=True, timeout=240, env=cluster.env,
    )  # fmt: skip


@pytest.mark.usefixtures("one_thread")
def test_an_elastic_run_takes_every_step_once_however_many_nodes_there_are(
    cluster: Nodes, make_config: MakeConfig, tmp_path: Path
) -> None:
    # One step per epoch: each waits for Ray's controller, so that the run does not get far while nodes come and go.
    # Statistics of small batches and the kinks of guidance would magnify the rounding of other sums.
    start, model = tmp_path / "start.safetensors", "bcos_resnet_tiny"
    torch.manual_seed(0)
    safetensors.torch.save_file(build_network(model, 2).net.state_dict(), start)
    common = {
        "epochs": 2000, "batch_size": 23, "optim": {"name": "sgd", "lr": 0.01}, "guidance": {"weight": 0.0},
        "model": {"name": model, "norm_statistics": "frozen", "weights": str(start)},
    }  # fmt: skip
    config = make_config(name="elastic", workers=2, resources={"min_workers": 1, "max_failures": 0}, **common)
    leaving = cluster.workers[-1]
    with driver("train", write(config), "--address", cluster.address, env=cluster.env, before=_LOOKS_OFTEN) as command:
        command.wait_for(r"^start: attempt 1 on 2 worker\(s\)")
        command.wait_for("^epoch 2 done")
        name = node_id(leaving)
        drain(cluster, name)
        command.wait_for(rf"^preempted: node {name[:8]} is taken away in \d+ s; checkpoint written at step ")
        leaving.kill()
        command.wait_for(r"^resized: 2 -> 1 worker\(s\)")
        command.wait_for(r"^epoch \d+ done")
        cluster.add()
        command.wait_for(r"^resizing: there is room for 2 worker\(s\); checkpoint written at step ")
        command.wait_for(r"^resized: 1 -> 2 worker\(s\)")
        command.wait_for(r"^epoch \d+ done")
        command.send(signal.SIGTERM)
        command.wait_for("^stopping: SIGTERM; the workers write a checkpoint and leave")
        code, lines = command.end()
    assert code == 143
    last = re.match(
        r"stopped by SIGTERM; checkpoint written at step (\d+); continue with `raytrain-xai resume ", lines[-1]
    )
    assert last is not None
    shown = [int(found[1]) for line in lines if (found := re.match(r"epoch \d+ step (\d+): loss", line))]
    assert shown == list(range(1, int(last[1]) + 1)), "no step was lost or taken twice"
    assert len(list((folder(config) / "attempts").iterdir())) == 3

    straight = make_config(name="straight", evaluation={"every_epochs": 2000}, **common)
    stop_at(straight, int(last[1]))
    stop_at(make_config(name="begin", evaluation={"every_epochs": 2000}, **common), 1)
    begin = tensors(make_config(name="begin", **common), 1)
    for name, value in tensors(straight, int(last[1])).items():
        way = (value - begin[name]).norm()
        assert (tensors(config, int(last[1]))[name] - value).norm() <= 1e-3 * way + 1e-6, name


@pytest.mark.usefixtures("one_thread")
def test_waiting_ends_and_signals_leave_a_checkpoint(cluster: Nodes, make_config: MakeConfig) -> None:
    trains = make_config(name="trains", workers=1, epochs=30)
    patient = make_config(name="patient", workers=4, batch_size=8)
    limited = make_config(name="limited", workers=4, batch_size=8, resources={"capacity_deadline_s": 5})
    with ExitStack() as stack:
        at = ("--address", cluster.address)
        commands = {
            c.name: stack.enter_context(driver("train", write(c), *at, env=cluster.env))
            for c in (trains, patient, limited)
        }
        commands["patient"].wait_for(r"^waiting: waiting for the cluster to offer 4 CPU \(it has 2\)")
        commands["patient"].send(signal.SIGINT)
        commands["trains"].wait_for("step 2: loss")
        commands["trains"].send(signal.SIGINT)
        ended = {name: command.end() for name, command in commands.items()}
    for _, lines in ended.values():
        assert not any("Traceback" in line for line in lines), lines

    code, lines = ended["patient"]
    assert code == 130
    assert lines[-1] == (
        f"stopped by SIGINT while no workers were there; continue with `raytrain-xai resume {folder(patient)}`"
    )
    code, lines = ended["limited"]
    assert code == 1
    assert re.fullmatch(
        r"error: \d+ s without workers \(resources.capacity_deadline_s=5\): the run needs 4 worker\(s\) with 1 CPU "
        r"each, the cluster does not offer 4 CPU \(it has 2\); when there is room, continue with "
        r"`raytrain-xai resume .*limited`",
        lines[-1],
    )
    code, lines = ended["trains"]
    assert code == 130 and lines[-1].startswith("stopped by SIGINT; checkpoint written at step ")

    outcome = resume_run(str(folder(trains)), ["workers=0"], Launch("local", [].append))
    straight = make_config(name="straight", epochs=30)
    assert outcome.metrics == start_run(straight, Launch("local", [].append)).metrics
    ends = [folder(config) / "checkpoints" / "step-00000090" for config in (trains, straight)]
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
    assert [record["step"] for record in records(trains, "step")] == list(range(1, 91))
