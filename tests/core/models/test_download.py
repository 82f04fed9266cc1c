"""Downloads from a real HTTP server on loopback that can break off, lie and forget."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from raytrain_xai.errors import CheckpointError
from raytrain_xai.models import catalogue
from raytrain_xai.models.catalogue import OfficialWeights, Release
from raytrain_xai.models.download import MIRROR, cache_folder, download, find_file, read_official
from raytrain_xai.models.zoo import build_network

CONTENT = bytes(range(256)) * 12_000  # three chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What it serves at any path, and how badly."""

    content: bytes = CONTENT
    break_after: int | None = None
    status: int | None = None
    knows_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            if state.status is not None:
                self.send_error(state.status)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and state.knows_ranges else 0
            size = len(state.content)
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            stop = size if state.break_after is None else start + state.break_after
            self.wfile.write(state.content[start:stop])

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(MIRROR, raising=False)
    return cache_folder()


def published(server: Server, digits: str = DIGEST[:10]) -> OfficialWeights:
    return OfficialWeights("official", f"net-{digits}.pth", 1.0, Release("us", server.url, "CC0"))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_downloads_once_into_the_cache_with_progress(server: Server, cache: Path, tmp_path: Path) -> None:
    assert cache == tmp_path / "cache" / "raytrain-xai" / "weights"
    weights, seen = published(server), []
    assert find_file(weights) is None
    assert read_official(weights, lambda here, total: seen.append((here, total))) == CONTENT
    assert read_official(weights) == CONTENT
    assert server.ranges == [None]
    assert names(cache) == [weights.file]
    assert [here for here, _ in seen] == sorted({here for here, _ in seen})
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) >= 3


def test_an_interrupted_download_continues_where_it_stopped(server: Server, cache: Path) -> None:
    server.break_after = 1_500_000
    weights = published(server)
    with pytest.raises(CheckpointError, match=r"connection ended after 1500000 of 3072000 bytes.*\.part, start again"):
        read_official(weights)
    assert names(cache) == [f"{weights.file}.part"]
    server.break_after, seen = None, []
    assert read_official(weights, lambda here, total: seen.append((here, total))) == CONTENT
    assert server.ranges == [None, "bytes=1500000-"]
    assert seen[0][0] > 1_500_000
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert names(cache) == [weights.file]


def test_a_server_without_ranges_is_asked_for_the_whole_file_again(server: Server, cache: Path) -> None:
    server.break_after, server.knows_ranges = 1000, False
    with pytest.raises(CheckpointError, match="after 1000 of"):
        read_official(published(server))
    server.break_after = None
    assert read_official(published(server)) == CONTENT
    assert len(names(cache)) == 1


def test_a_part_that_is_whole_already_is_only_verified(server: Server, cache: Path) -> None:
    weights = published(server)
    cache.mkdir(parents=True)
    (cache / f"{weights.file}.part").write_bytes(CONTENT)
    assert read_official(weights) == CONTENT
    (cache / weights.file).unlink()
    (cache / f"{weights.file}.part").write_bytes(CONTENT + b"more")
    with pytest.raises(
        CheckpointError, match=r"is shorter than the 3072004 bytes that an earlier attempt left in .*part"
    ):
        read_official(weights)
    assert names(cache) == []


def test_wrong_content_is_deleted(server: Server, cache: Path) -> None:
    server.content = b"something else"
    digits = hashlib.sha256(server.content).hexdigest()[:10]
    with pytest.raises(
        CheckpointError,
        match=rf"wrong content: its SHA-256 starts with {digits}, expected {DIGEST[:10]}; it was deleted",
    ):
        read_official(published(server))
    assert names(cache) == []


def test_a_file_without_published_checksum_is_taken_as_it_comes(server: Server) -> None:
    weights = OfficialWeights("official", "net_best.pth.tar", None, Release("us", server.url, "CC0"))
    assert read_official(weights) == CONTENT


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (503, "Service Unavailable")])
def test_answers_of_the_server_are_reported(server: Server, status: int, reason: str) -> None:
    server.status = status
    with pytest.raises(CheckpointError, match=rf"net-.*pth: the server answered {status} {reason}; look for the file"):
        read_official(published(server))


def test_no_network(cache: Path) -> None:
    weights = published(Server(url="http://127.0.0.1:1"))
    with pytest.raises(
        CheckpointError, match=r"cannot download http://127.0.0.1:1/net-.*Refused.*Without network"
    ) as caught:
        read_official(weights)
    assert f"put it at {cache / weights.file}, or into a folder or s3:// address that {MIRROR} names" in str(
        caught.value
    )


def test_an_unwritable_cache_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(
        CheckpointError, match=r"cannot write .*cache/raytrain-xai/weights/net-.*: Not a directory; free"
    ):
        read_official(published(server))


def test_the_mirror_folder_comes_first_and_is_verified_too(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = published(server)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / weights.file).write_bytes(CONTENT)
    monkeypatch.setenv(MIRROR, str(mirror))
    assert read_official(weights) == CONTENT
    assert server.ranges == []
    assert not cache.exists()
    (mirror / weights.file).write_bytes(CONTENT[:-1])
    with pytest.raises(
        CheckpointError, match=rf"mirror/net-.* is not the published file: .*expected {DIGEST[:10]}; del"
    ):
        read_official(weights)
    (mirror / weights.file).unlink()
    assert read_official(weights) == CONTENT
    assert server.ranges == [None]


def test_several_at_once_download_once(server: Server, cache: Path) -> None:
    target = cache / "net.pth"
    threads = [threading.Thread(target=download, args=(server.url, target, DIGEST)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert names(cache) == ["net.pth"]


def test_official_weights_by_name(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    original = build_network("bcos_resnet_tiny", 1000)
    torch.save({f"0.{key}": value for key, value in original.net.state_dict().items()}, tmp_path / "w.pth")
    server.content = (tmp_path / "w.pth").read_bytes()
    weights = published(server, hashlib.sha256(server.content).hexdigest()[:10])
    monkeypatch.setitem(catalogue.CATALOGUE, "bcos_resnet_tiny", (weights,))
    network = build_network("bcos_resnet_tiny", 1000, weights="official")
    for key, value in original.net.state_dict().items():
        assert torch.equal(network.net.state_dict()[key], value), key
    monkeypatch.setitem(catalogue.CATALOGUE, "resnet18", (weights,))
    with pytest.raises(CheckpointError, match=rf"{weights.file} are not those of resnet18: \d+ missing"):
        build_network("resnet18", 1000, weights="official")
