"""Reading and writing through a real HTTP proxy that fails as networks and S3 do."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_storage import Fault, FaultyStorage, at_random, faulty_storage
from pyarrow import NativeFile, fs

from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.storage import (
    Location,
    address,
    delete_tree,
    exists,
    list_names,
    list_tree,
    locate,
    open_file,
    patience,
    read_bytes,
    stamp_of,
    write_bytes,
)


class Stopped(Exception):
    """What a signal of these tests raises."""


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyStorage]:
    """In front of the server; at first it only forwards."""
    with faulty_storage(s3_server, lambda *_: None) as state:
        yield state


@pytest.fixture
def place(proxy: FaultyStorage, request: pytest.FixtureRequest) -> Location:
    """A folder of the test's own behind the proxy."""
    return locate(f"s3://bucket/{request.node.name}?endpoint_override={proxy.address}&scheme=http")


def first(count: int, fault: Fault):
    """Every method of every path fails that often, then works."""
    seen: dict[tuple[str, str], int] = {}
    lock = threading.Lock()

    def choose(method: str, path: str, _number: int) -> Fault | None:
        with lock:
            seen[method, path] = seen.get((method, path), 0) + 1
            return fault if seen[method, path] <= count else None

    return choose


def test_a_third_of_all_requests_fail_and_every_byte_is_right(
    proxy: FaultyStorage, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "REQUESTS", 1)  # the client repeats nothing, so all of it is up to us
    place = locate(place.uri)
    proxy.choose = at_random(1 / 3, ("500", "503", "delay", "reset", "truncate"))
    contents = {f"{number:02d}": bytes([number]) * 40_000 for number in range(16)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda item: write_bytes(place.child("files", item[0]), item[1]), contents.items()))
        found = list(pool.map(lambda name: read_bytes(place.child("files", name)), contents))
        assert found == list(contents.values())
        assert all(pool.map(lambda name: exists(place.child("files", name)), contents))
        assert list_names(place.child("files")) == sorted(contents)
        list(pool.map(lambda name: delete_tree(place.child("files", name)), list(contents)[:4]))
    assert list_tree(place) == {f"files/{name}": 40_000 for name in sorted(contents)[4:]}
    assert set(proxy.faults()) == {"500", "503", "delay", "reset", "truncate"}


@pytest.mark.parametrize("fault", ["503"])
def test_what_the_client_gives_up_on_is_tried_again(
    proxy: FaultyStorage, place: Location, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.choose = first(patience.REQUESTS, fault)  # as many as the client makes of one request
    write_bytes(place.child("file"), b"content")
    assert proxy.faults()[fault] == patience.REQUESTS
    assert "cannot write s3://bucket/" in caplog.text and "yet, trying again for up to 1" in caplog.text
    assert read_bytes(place.child("file")) == b"content"


def test_a_connection_that_breaks_within_a_file(proxy: FaultyStorage, place: Location) -> None:
    table = pa.table({"a": list(range(50_000)), "b": [f"{n:09d}" for n in range(50_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=10_000)
    write_bytes(place.child("table"), sink.getvalue().to_pybytes())
    with open_file(place.child("table")) as file:
        reader = pq.ParquetFile(file)
        proxy.choose = first(2, "truncate")
        assert reader.read().equals(table)
        assert proxy.faults()["truncate"] == 2
        file.seek(-4, 2)
        assert file.read() == b"PAR1"


def test_an_outage_within_a_file_is_named_as_what_it_is(
    proxy: FaultyStorage, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Formats report errors of reading as damage; an outage must not look like it."""
    monkeypatch.setenv(patience.WAIT, "0")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": list(range(1000))}), sink)
    write_bytes(place.child("table"), sink.getvalue().to_pybytes())
    with pytest.raises(DataError, match="cannot read s3://.*gave up after 1 attempts"), open_file(
        place.child("table")
    ) as file:  # fmt: skip
        reader = pq.ParquetFile(file)
        proxy.choose = lambda *_: "reset"
        reader.read()


def test_a_server_that_never_answers(proxy: FaultyStorage, place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "ANSWER_S", 1.0)
    at = locate(place.uri)
    write_bytes(at.child("file"), b"content")
    hang = first(1, "hang")
    proxy.choose = lambda method, path, number: hang(method, path, number) if method == "GET" else None
    assert read_bytes(at.child("file")) == b"content"
    assert proxy.faults()["hang"] == 1


@pytest.mark.parametrize("fault", ["500", "reset"])
def test_what_does_not_pass_ends_in_bounded_time(
    proxy: FaultyStorage, place: Location, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setenv(patience.WAIT, "2")
    proxy.choose = lambda *_: fault
    began = time.monotonic()
    with pytest.raises(
        DataError,
        match=rf"cannot write s3://bucket/.*/file\?.*: gave up after \d attempts of up to 3 requests in \d+\.\d s; the "
        rf"last one: .*AWS Error.*; check the address and .*{patience.WAIT}=2 says",
    ):
        write_bytes(place.child("file"), b"content")
    assert time.monotonic() - began < 60  # 2 s, and one more attempt of the client
    assert 3 <= len(proxy.seen) <= 20


def test_what_is_refused_is_not_asked_again(proxy: FaultyStorage, place: Location) -> None:
    with pytest.raises(DataError, match="file.* does not exist"):
        read_bytes(place.child("file"))
    assert len(proxy.seen) == 1
    assert stamp_of(place.child("file")) is None
    proxy.choose = lambda *_: "403"
    for action, work in {"write": lambda: write_bytes(place, b"1"), "list": lambda: list_names(place)}.items():
        before = len(proxy.seen)
        with pytest.raises(DataError, match=f"cannot {action} s3://.*ACCESS_DENIED"):
            work()
        assert len(proxy.seen) == before + 1


def test_a_server_without_tls_is_not_waited_for(s3_server: str) -> None:
    with pytest.raises(DataError, match="cannot read s3://bucket/x.*wrong version number"):
        read_bytes(locate(f"s3://bucket/x?endpoint_override={s3_server}"))


@pytest.fixture
def raising_signal() -> Iterator[None]:
    """SIGUSR1 raises :class:`Stopped` in the main thread, as Ctrl-C raises KeyboardInterrupt."""

    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGUSR1, stop)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("raising_signal")
def test_a_signal_while_a_file_is_opened_leaves_no_empty_one(place: Location) -> None:
    @dataclass(frozen=True)
    class Interrupted:
        real: fs.FileSystem

        def open_output_stream(self, path: str) -> NativeFile:
            stream = self.real.open_output_stream(path)
            signal.raise_signal(signal.SIGUSR1)
            return stream

    file = place.child("file")
    write_bytes(file, b"old")
    with pytest.raises(Stopped):
        write_bytes(replace(file, filesystem=cast(fs.FileSystem, Interrupted(file.filesystem))), b"new")
    assert read_bytes(file) == b"new"


@pytest.mark.usefixtures("raising_signal")
def test_a_signal_while_the_thread_of_an_upload_starts_begins_none(
    proxy: FaultyStorage, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        real(thread)
        if thread.name.startswith("ThreadPoolExecutor"):
            signal.raise_signal(signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(Stopped):
            write_bytes(place.child("file"), b"new")
    assert not exists(place.child("file")), "nobody would wait for it"
    assert not any(method in ("PUT", "POST") for method, *_ in proxy.seen)


@pytest.mark.usefixtures("raising_signal")
@pytest.mark.parametrize("request_number", [0, 2])
def test_a_signal_during_an_upload_in_parts(proxy: FaultyStorage, place: Location, request_number: int) -> None:
    file, main = place.child("file"), threading.main_thread().ident
    assert main is not None

    def choose(_method: str, _path: str, number: int) -> Fault | None:
        if number == request_number:
            signal.pthread_kill(main, signal.SIGUSR1)
        return None

    proxy.choose = choose
    with pytest.raises(Stopped):
        write_bytes(file, b"n" * (12 << 20))
    assert len(proxy.seen) >= 4  # begun, parts, ended
    assert read_bytes(file) == b"n" * (12 << 20)


@pytest.mark.parametrize("given", ["soon", "-1", "inf", "nan"])
def test_a_wait_that_is_none(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(patience.WAIT, given)
    with pytest.raises(ConfigError, match=f"{patience.WAIT}={given}: expected a number of seconds"):
        patience.longest_wait()


def test_local_files_are_not_waited_for(tmp_path: Path) -> None:
    at = locate(str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_bytes(b"")
    began = time.monotonic()
    with pytest.raises(DataError, match="cannot write"):
        write_bytes(at, b"1")
    assert time.monotonic() - began < 30
