"""One name, one run, one writer; and a log that shows every step once."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from raytrain_xai.config import RunConfig
from raytrain_xai.errors import CheckpointError, ConfigError, RunError
from raytrain_xai.run_folder import (
    LOG,
    Attempt,
    RunLog,
    claim_attempt,
    create_run,
    open_run,
    read_config,
    run_location,
    storage_and_name,
)
from raytrain_xai.storage import Location, locate


def config(tmp_path: Path, **changes: object) -> RunConfig:
    raw = {"name": "a", "storage": str(tmp_path), "epochs": 1, "data": {"path": "d"}, "model": {"name": "m"}}
    return RunConfig.model_validate({**raw, **changes})


@pytest.fixture
def run(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "run"))


def test_a_taken_name_is_refused_with_the_way_on(tmp_path: Path) -> None:
    create_run(config(tmp_path))
    with pytest.raises(ConfigError, match=r"name 'a' is taken.*raytrain-xai resume .*/a.*--set name="):
        create_run(config(tmp_path, epochs=2))
    assert read_config(run_location(config(tmp_path)))["epochs"] == 1


def test_the_stored_configuration_is_the_resolved_one(tmp_path: Path) -> None:
    at = create_run(config(tmp_path))
    assert RunConfig.model_validate(read_config(at)) == config(tmp_path)


@pytest.mark.parametrize(
    ("address", "storage", "name"),
    [
        ("/a/runs/x/", "/a/runs", "x"),
        ("/x", "/", "x"),
        ("file:///a/x", "/a", "x"),
        ("s3://b/runs/x?scheme=http&endpoint_override=h:1", "s3://b/runs?scheme=http&endpoint_override=h:1", "x"),
    ],
)
def test_an_address_is_a_storage_and_a_name(address: str, storage: str, name: str) -> None:
    assert storage_and_name(locate(address)) == (storage, name)


def test_what_is_not_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run: it has no config.yaml"):
        open_run(str(tmp_path))


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n"])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    at = create_run(config(tmp_path))
    Path(at.child("config.yaml").path).write_text(text)
    with pytest.raises(CheckpointError, match="config.yaml is damaged"):
        read_config(at)


def test_a_newer_attempt_fences_the_older_one_off(run: Location) -> None:
    first = claim_attempt(run)
    first.check()
    second = claim_attempt(run)
    assert (first.number, second.number) == (1, 2)
    second.check()
    with pytest.raises(RunError, match=f"{first.name} .* superseded by {second.name}"):
        first.check()


def test_of_two_claims_of_one_number_the_last_name_wins(run: Location) -> None:
    folder = Path(run.path) / "attempts"
    folder.mkdir(parents=True)
    for token in ("0aaaaaaa", "9bbbbbbb"):
        (folder / f"attempt-0003-{token}.json").write_text("{}")
    Attempt(run, "attempt-0003-9bbbbbbb").check()
    with pytest.raises(RunError):
        Attempt(run, "attempt-0003-0aaaaaaa").check()


def test_attempts_are_ordered_by_number_not_by_text(run: Location) -> None:
    folder = Path(run.path) / "attempts"
    folder.mkdir(parents=True)
    (folder / "attempt-9999-00000000.json").write_text("{}")
    (folder / "attempt-10000-00000000.json").write_text("{}")
    (folder / "notes.json").write_text("{}")  # not an attempt
    assert claim_attempt(run).number == 10001


def test_of_many_simultaneous_claims_exactly_one_may_write(run: Location) -> None:
    barrier, claimed, lost = threading.Barrier(8), list[Attempt](), list[RunError]()

    def claim() -> None:
        barrier.wait()
        try:
            claimed.append(claim_attempt(run))
        except RunError as error:
            lost.append(error)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) + len(lost) == 8
    assert sum(is_current(attempt) for attempt in claimed) == 1


def is_current(attempt: Attempt) -> bool:
    try:
        attempt.check()
    except RunError:
        return False
    return True


def read(run: Location) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(run.child(LOG).path).read_text().splitlines()]


def test_a_resumed_log_drops_the_steps_that_are_done_again(run: Location) -> None:
    log = RunLog.resume(claim_attempt(run), 0)
    for step in (10, 20, 30):
        log.add({"kind": "step", "step": step})
    log.add({"kind": "event", "step": 30, "event": "note"})
    log.flush()
    again = RunLog.resume(claim_attempt(run), 20)
    again.add({"kind": "step", "step": 30})
    again.flush()
    records = [(r["kind"], r["step"], r["attempt"]) for r in read(run)]
    assert records == [("step", 10, 1), ("step", 20, 1), ("event", 30, 1), ("step", 30, 2)]


def test_a_superseded_attempt_does_not_touch_the_log(run: Location) -> None:
    old = RunLog.resume(claim_attempt(run), 0)
    new = RunLog.resume(claim_attempt(run), 0)
    new.add({"kind": "step", "step": 1})
    new.flush()
    with pytest.raises(RunError):
        old.flush()
    assert [r["attempt"] for r in read(run)] == [2]
