"""Jobs of tasks without Ray: order, resumption by a ledger, progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.errors import DataError
from raytrain_xai.runners.tasks import Crew, run_tasks
from raytrain_xai.sections import ResourcesConfig
from raytrain_xai.storage import locate

HERE = Crew(workers=0, resources=ResourcesConfig())


@dataclass(frozen=True)
class Count:
    key: str
    num_images: int


class Maker:
    """Counts how often state is built, and which tasks are done; ``bad`` fails."""

    def __init__(self, bad: str = "") -> None:
        self.made, self.done, self.bad = 0, list[str](), bad

    def __call__(self) -> Callable[[Count], dict[str, Any]]:
        self.made += 1
        return self.work

    def work(self, task: Count) -> dict[str, Any]:
        if task.key == self.bad:
            raise DataError(f"{task.key} is damaged")
        self.done.append(task.key)
        return {"key": task.key, "third": task.num_images / 3}


TASKS = [Count("b", 4), Count("a", 2), Count("c", 1)]


def test_results_come_in_the_order_of_the_tasks() -> None:
    make, records = Maker(), list[dict[str, Any]]()
    results = run_tasks(make, TASKS, HERE, records.append)
    assert results == [{"key": "b", "third": 4 / 3}, {"key": "a", "third": 2 / 3}, {"key": "c", "third": 1 / 3}]
    assert make.made == 1
    assert [(r["kind"], r["done"], r["total"]) for r in records] == [("tasks", n, 7) for n in (4, 6, 7)]
    assert records[-1]["seconds_left"] == 0 and all(r["images_per_s"] > 0 for r in records)
    assert run_tasks(make, [], HERE, records.append) == [] and make.made == 1


def test_a_ledger_keeps_what_is_done(tmp_path: Path) -> None:
    """An error ends the job; the next one does the rest, and a third nothing at all."""
    ledger, broken, mended = locate(str(tmp_path / "ledger")), Maker(bad="a"), Maker()
    with pytest.raises(DataError, match="^a is damaged$"):
        run_tasks(broken, TASKS, HERE, [].append, ledger=ledger)
    assert broken.done == ["b"]
    records: list[dict[str, Any]] = []
    results = run_tasks(mended, TASKS, HERE, records.append, ledger=ledger)
    assert mended.done == ["a", "c"]
    assert [(r["done"], r["total"]) for r in records] == [(6, 7), (7, 7)]
    assert results == run_tasks(Maker(bad="a"), TASKS, HERE, [].append, ledger=ledger)
    assert results[0] == {"key": "b", "third": 4 / 3}, "numbers come back as they were"
    (tmp_path / "ledger" / "c.json").write_text("{")
    with pytest.raises(DataError, match="c.json is damaged: not valid JSON; delete it, and its task is done again"):
        run_tasks(Maker(), TASKS, HERE, [].append, ledger=ledger)
