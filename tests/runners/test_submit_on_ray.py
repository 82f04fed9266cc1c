"""Jobs on a real cluster of two nodes that asks for a token: followed, refused, stopped, and with another package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image
from ray_nodes import Node, Nodes, free_port, nodes

from raytrain_xai.checkpoint import complete_steps
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.scenes import SceneOptions, read_scenes_birds
from raytrain_xai.storage import locate

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 400
CONFIG = {
    "name": "run", "epochs": 1, "workers": 2, "batch_size": 8, "data": {"path": "birds", "image_size": 48},
    "model": {"name": "bcos_resnet_tiny", "norm_statistics": "batch"}, "guidance": {"weight": 0},
    "tracking": {"log_every_steps": 1, "tensorboard": False},
}  # fmt: skip


@dataclass(frozen=True)
class Shell:
    """A folder with a data set and a configuration, and a command line that knows the cluster and its token."""

    folder: Path
    env: dict[str, str]

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder, env={**self.env, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, code: int = 0, **env: str) -> str:
        """What ``python ARGUMENTS`` printed, on both streams."""
        process = self.start(*arguments, **env)
        try:
            output, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        assert process.returncode == code, output
        return output

    def xai(self, *arguments: str, code: int = 0, **env: str) -> str:
        return self.run("-m", "raytrain_xai", *arguments, code=code, **env)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.2)


def is_up(node: Node, condition: Callable[[], bool]) -> bool:
    """Wait for ``condition``; False when the node ends before."""
    wait_until(lambda: condition() or node.process.poll() is not None, "a node is there")
    return node.process.poll() is None


def num_alive(url: str, token: str) -> int:
    asked = urllib.request.Request(f"{url}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            rows = json.load(answer)["data"]["result"]["result"]
    except (OSError, KeyError):
        return 0
    return sum(row["state"] == "ALIVE" for row in rows)


@contextmanager
def cluster_with_dashboard() -> Generator[tuple[Nodes, str] | None]:
    """A head and a second node of one CPU each, and the address of their dashboard; None where a node did not start."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with nodes(0, dashboard=port, head_cpus=1) as started:
        token = started.env["RAY_AUTH_TOKEN"]
        is_there = is_up(started.head, lambda: num_alive(url, token) == 1)
        own = ("--temp-dir", str(started.folder / "2"))  # in a shared one, nodes delete each other's uploads
        is_there = is_there and is_up(started.add(1, *own), lambda: num_alive(url, token) == 2)
        yield (started, url) if is_there else None


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Nodes, str]]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # jobs say `python`
        patch.setenv("RAY_DASHBOARD_STARTUP_TIMEOUT_S", str(PATIENCE_S))
        patch.setenv("RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT", str(PATIENCE_S))
        for _ in range(4):  # a node gives up after 30 s, which nothing sets and a busy machine exceeds
            with ExitStack() as attempt:
                started = attempt.enter_context(cluster_with_dashboard())
                if started is not None:
                    stack.push(attempt.pop_all())
                    break
        else:
            pytest.fail("no node started within Ray's 30 s, four times")
        yield started


@pytest.fixture(scope="module")
def shell(cluster: tuple[Nodes, str], tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("shell")
    prepare(read_scenes_birds(None, SceneOptions(num_train=24, size=48)), str(folder / "birds"), shard_rows=10)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    started, url = cluster
    env = {**started.env, "RAY_API_SERVER_ADDRESS": url, "RAY_ADDRESS": "127.0.0.1:1", "COLUMNS": "200"}
    del env["RAY_AUTH_MODE"]  # submit asks the cluster; RAY_ADDRESS would send Ray's own client elsewhere
    return Shell(folder, env)


def test_a_run_on_two_nodes_is_followed_and_the_next_of_its_name_refused(shell: Shell) -> None:
    """Relative places are those of the shell's folder; the job's exit code is that of the command."""
    output = shell.xai("submit", "config.yaml")
    run = shell.folder / "runs" / "run"
    assert f"run: {run}" in output and "epoch 1 done, validation" in output
    assert f"warning: storage={run.parent}, data.path={shell.folder}/birds must lead to the same files" in output
    assert json.loads((run / "metrics.json").read_text())["selected"]["epoch"] == 1
    assert yaml.safe_load((run / "config.yaml").read_text())["workers"] == 2, "each node has room for one of them"

    job = shell.xai("submit", "config.yaml", "--no-wait").splitlines()[-1]
    assert "name 'run' is taken" in shell.xai("submit", "--follow", job, code=2)


@pytest.mark.parametrize(
    ("environ", "message"),
    [({"RAY_AUTH_TOKEN": "wrong" * 8}, "refuses the token"), ({"RAY_AUTH_TOKEN": ""}, "asks for a token and this")],
)
def test_another_token_submits_nothing(shell: Shell, environ: dict[str, str], message: str, tmp_path: Path) -> None:
    output = shell.xai("submit", "config.yaml", code=2, HOME=str(tmp_path), **environ)
    assert message in output and len(output.splitlines()) == 1


def test_no_such_job(shell: Shell) -> None:
    assert "no job nobody-1 on the cluster" in shell.xai("submit", "--follow", "nobody-1", code=2)


def test_ctrl_c_stops_a_job_at_a_checkpoint(shell: Shell) -> None:
    following = shell.start(
        "-m", "raytrain_xai", "submit", "config.yaml", "--set", "name=long", "--set", "epochs=100000"
    )
    log = shell.folder / "runs" / "long" / "metrics.jsonl"
    try:
        wait_until(
            lambda: following.poll() is not None or (log.exists() and '"step"' in log.read_text()), "the run trains"
        )
        following.send_signal(signal.SIGINT)
        output, _ = following.communicate(timeout=PATIENCE_S)
    finally:
        following.kill()
    assert following.returncode == 130, output
    assert "stopping: the job writes a checkpoint first" in output and "Traceback" not in output
    assert complete_steps(locate(str(shell.folder / "runs" / "long" / "checkpoints")))
    job = next(line.split()[1] for line in output.splitlines() if line.startswith("job long-"))
    assert f"job {job} is stopped" in shell.xai("submit", "--stop", job)
    assert "raytrain-xai resume" in shell.xai("submit", "--follow", job, code=143)


def test_plain_ray_job_submit_from_a_clone(shell: Shell) -> None:
    """Another kind of job, by Ray's own command; its workers join the cluster that the job runs on."""
    trained, pictures = shell.folder / "runs" / "run", shell.folder / "pictures"
    pictures.mkdir()
    Image.effect_noise((70, 50), 90).convert("RGB").save(pictures / "a.png")
    command = ["raytrain-xai", "batch", str(trained), str(pictures), "--out", "answers", "--workers", "1"]
    ray = ["-m", "ray.scripts.scripts", "job", "submit", "--address", shell.env["RAY_API_SERVER_ADDRESS"]]
    submit = [*ray, "--working-dir", str(REPOSITORY), "--"]
    environ = {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": ""}
    output = shell.run(*submit, *command, code=1, **environ)
    assert "answers is relative: in this Ray job it would lie in Ray's copy" in output
    command[5] = str(shell.folder / "answers")
    shell.run(*submit, *command, **environ)
    assert list((shell.folder / "answers").rglob("*.parquet"))


def test_a_package_that_the_cluster_does_not_have_is_uploaded(shell: Shell, tmp_path: Path) -> None:
    for name in ("raytrain_xai", "serve"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "raytrain_xai" / "cli" / "__init__.py").open("a") as file:
        file.write("import sys\n\nsys.stderr.write(f'changed, from {__file__}\\n')\n")
    output = shell.xai("submit", "--", "config", "show", "config.yaml", PYTHONPATH=str(tmp_path))
    lines = [line for line in output.splitlines() if line.startswith("changed, from ")]
    assert len(lines) == 2 and any(str(tmp_path) not in line for line in lines), "here and in the job"
    assert f"path: {shell.folder}/birds" in output


def test_every_kind_of_job(shell: Shell) -> None:
    """Distillation from answers stored before, concepts from vectors exported before, a sweep, and more epochs."""
    runs = shell.folder / "runs"
    distil = {
        **CONFIG, "name": "student", "evaluation": {"select": "best_accuracy"},
        "distill": {"teacher": "runs/run", "cache": "answers-stored"},
    }  # fmt: skip
    concepts = {
        "job": "concepts", "name": "concepts", "epochs": 2, "workers": 2, "batch_size": 72, "network": "runs/run",
        "layer": "Mid3", "features": {"store": "vectors", "reservoir": 400}, "sae": {"latents": 48, "k": 4},
        "tracking": {"tensorboard": False},
    }  # fmt: skip
    base = {key: value for key, value in CONFIG.items() if key != "name"} | {"workers": 1}
    sweep = {
        "name": "sweep", "galleries": "none", "base": base, "objectives": {"f1": "max", "epg": "max"},
        "space": {"guidance.weight": [0, 0.01]},
    }  # fmt: skip
    for name, config in (("distil", distil), ("concepts", concepts), ("sweep", sweep)):
        (shell.folder / f"{name}.yaml").write_text(yaml.safe_dump(config))

    shell.xai("submit", "--", "distill", "cache", "distil.yaml", "--workers", "2")
    shell.xai("submit", "distil.yaml")
    assert json.loads((runs / "student" / "metrics.json").read_text())["val"]["agreement"] > 0
    shell.xai("submit", "--", "concepts", "features", "concepts.yaml", "--workers", "2")
    assert list((shell.folder / "vectors" / "Mid3").rglob("*.safetensors"))
    shell.xai("submit", "concepts.yaml")
    shell.xai("submit", "--", "catalogue", "runs/concepts", "--workers", "2")
    assert (runs / "concepts" / "catalogue" / "index.html").is_file()
    shell.xai("submit", "sweep.yaml")
    assert len(list((runs / "sweep" / "trials").glob("*/metrics.json"))) == 2
    shell.xai("submit", "--", "resume", "runs/run", "--set", "epochs=2")
    logged = [json.loads(line) for line in (runs / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in logged if record["kind"] == "epoch"] == [1, 2]
