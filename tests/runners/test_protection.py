"""A run and a service seen from outside: what listens to the network, and whether what they write holds a secret."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
import yaml
from watched_command import Watched, watched

from raytrain_xai.config import RunConfig
from raytrain_xai.errors import ConfigError
from raytrain_xai.runners.protection import import_ray, on_loopback
from raytrain_xai.storage import list_tree, locate, read_bytes

# What a user may have in the environment, and nobody may find afterwards.
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIsecret0fAWS",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEsecret0fSession",
    "RAY_AUTH_TOKEN": "5ec4e7" + "0f" * 29,
    "MLFLOW_TRACKING_PASSWORD": "tracking-secret-9041",
    "RAYTRAIN_XAI_REDIS_PASSWORD": "redis-secret-7755",
    "OTHER_API_KEY": "sk-live-secret-3310",
}
PROXY_SECRET = "proxy-secret-2286"
ENVIRONMENT = {
    **SECRETS,
    "RAY_AUTH_MODE": "token",
    "HTTPS_PROXY": f"http://user:{PROXY_SECRET}@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}  # fmt: skip
_LIMIT_S = 540


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Short: Ray keeps sockets below it."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


def held_by(secrets: list[str], files: dict[str, bytes]) -> dict[str, str]:
    """File -> the secret in it."""
    return {name: secret for name, content in files.items() for secret in secrets if secret.encode() in content}


def files_of_ray(scratch: Path) -> dict[str, bytes]:
    return {
        path.relative_to(scratch).as_posix(): path.read_bytes()
        for path in scratch.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def exposed(command: Watched) -> dict[int, str]:
    """Port -> a title of its process, of what other machines could reach."""
    return {found.port: found.process for found in command.listeners if found.is_exposed}


@pytest.mark.ray
@pytest.mark.timeout(_LIMIT_S)
def test_a_run_shows_no_secret_and_listens_on_loopback(
    make_config: Callable[..., RunConfig], s3_storage: str, scratch: Path
) -> None:
    config = make_config(name="quiet", epochs=1, workers=2, storage=s3_storage, data={"augment": "none"})
    file = scratch / "run.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (scratch / "ray").mkdir()
    with watched(["train", str(file)], {**ENVIRONMENT, "TMPDIR": str(scratch / "ray")}) as command:
        code = command.process.wait(_LIMIT_S - 60)
    output = "".join(command.output)
    assert code == 0, output

    run = locate(s3_storage).child("quiet")
    stored = {name: read_bytes(run.child(*name.split("/"))) for name in list_tree(run)}
    ray = files_of_ray(scratch / "ray")
    assert any(name.endswith("/logs/gcs_server.out") for name in ray), "the folder of Ray is searched"
    assert {"config.yaml", "metrics.jsonl", "report.html"} <= stored.keys()
    assert held_by(["quiet"], stored), "a search that finds what is there"
    lines = {"command lines": "\n".join(command.command_lines).encode(), "output": output.encode()}
    assert held_by([*SECRETS.values(), PROXY_SECRET], stored | ray | lines) == {}

    assert any("gcs_server" in found.process for found in command.listeners), "sockets of Ray are seen"
    # Where the workers of a run find each other: torch's store, in worker 0, takes no address to listen at.
    assert len(exposed(command)) <= 1, exposed(command)
    assert all(title.startswith("ray::") for title in exposed(command).values()), exposed(command)


@pytest.mark.ray
@pytest.mark.timeout(_LIMIT_S)
def test_a_service_keeps_its_keys_and_listens_where_it_was_told(concept_runs: dict[str, str], scratch: Path) -> None:
    keys = scratch / "keys.jsonl"
    made = subprocess.run(
        [sys.executable, "-m", "raytrain_xai", "serve-keys", "add", str(keys), "ann", "--role", "predict"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    key = made.stdout.strip()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (scratch / "ray").mkdir()
    arguments = ["serve", f"net={concept_runs['Final']}", "--port", str(port), "--keys", str(keys)]
    with watched(arguments, {**ENVIRONMENT, "TMPDIR": str(scratch / "ray")}) as command:
        command.wait_for("interrupt to stop", _LIMIT_S - 120)
        model = f"http://127.0.0.1:{port}/v1/models/net"
        assert httpx.get(model, timeout=60).status_code == 401, "".join(command.output)
        assert httpx.get(model, headers={"X-API-Key": key}, timeout=60).status_code == 200
        assert httpx.get(model, headers={"X-API-Key": key + "x"}, timeout=60).status_code == 401
        now = Watched(command.process, command.mark)
        now.look()
        # Replicas talk to each other over one, pickled; Ray gives it no address, but asks for the token.
        answers = {at: _answer_to_a_stranger(at) for at in exposed(now)}
        assert set(answers.values()) <= {grpc.StatusCode.UNAUTHENTICATED}, (answers, exposed(now))
    assert len(exposed(command)) <= 1, exposed(command)
    assert port in {found.port for found in command.listeners if not found.is_exposed}
    found = files_of_ray(scratch / "ray") | {"output": "".join(command.output).encode()}
    assert any("/logs/serve/" in name for name in found), "logs of the service are searched"
    assert held_by([*SECRETS.values(), PROXY_SECRET, key], found) == {}


def _answer_to_a_stranger(port: int) -> grpc.StatusCode | None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        try:
            ask(b"", timeout=30)
        except grpc.RpcError as error:
            return error.code()
    return None


def test_the_environment_of_loopback_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `ray start` would inherit must not stay; what the user chose must not change."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    before = dict(os.environ)
    with on_loopback():
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    assert dict(os.environ) == before


_JOINS_ITSELF = """
import subprocess, sys
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.sections import ResourcesConfig

with connected(Crew(1, ResourcesConfig()), sys.argv[1], debug=False):
    import ray

    address = ray.get_runtime_context().gcs_address
    if sys.argv[1] == "local":
        sys.exit(subprocess.run([sys.executable, __file__, address], timeout=60).returncode)
    print("joined", address)
"""


@pytest.mark.ray
def test_a_cluster_on_loopback_is_joined_by_its_address(scratch: Path) -> None:
    """Ray alone would knock at the network card for ever."""
    script = scratch / "joins.py"
    script.write_text(_JOINS_ITSELF)
    done = subprocess.run(
        [sys.executable, str(script), "local"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("joined 127.0.0.1:")


def test_an_environment_that_lets_files_run_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "1")
    with pytest.raises(ConfigError, match="lets Parquet files run code"):
        import_ray("auto")


_CRAFTED = """
import pickle, sys
from pathlib import Path
import pyarrow as pa
from raytrain_xai.data.parquet import decode_shard, encode_table

class Payload:
    def __reduce__(self):
        return Path(sys.argv[1]).touch, ()

tag = {"ARROW:extension:name": "ray.data.arrow_tensor", "ARROW:extension:metadata": pickle.dumps(Payload())}
field = pa.field("image", pa.list_(pa.uint8()), metadata=tag)
data = encode_table(pa.table([pa.array([[1]], pa.list_(pa.uint8()))], schema=pa.schema([field])))
import ray.data  # from here on Arrow asks Ray about types of this name
import ray.data.extensions
decode_shard(data, "crafted")
"""


@pytest.mark.parametrize("refused", [True, False])
def test_a_crafted_shard_runs_no_code(refused: bool, tmp_path: Path) -> None:
    """The second case shows that the file would, where Ray is told to trust it."""
    mark = tmp_path / "it ran"
    told = {"RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "0" if refused else "1", "RAY_AUTH_MODE": "token"}
    done = subprocess.run(
        [sys.executable, "-c", _CRAFTED, str(mark)],
        env=os.environ | told, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert mark.exists() is not refused, done.stderr
    if refused:
        assert "DataError" in done.stderr.strip().splitlines()[-1]
