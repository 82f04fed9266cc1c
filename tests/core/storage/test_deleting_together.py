"""A folder that several delete at once, as rivals for a run do with what a killed one left."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raytrain_xai.storage import delete_tree, locate

_RIVALS, _ROUNDS = 4, 150  # without care, 17 of these 600 deletions failed


def test_a_folder_that_others_delete_too_is_gone_and_nobody_fails(tmp_path: Path) -> None:
    for number in range(_ROUNDS):
        folder, together = tmp_path / str(number), threading.Barrier(_RIVALS)
        folder.mkdir()
        for name in "abcdef":
            (folder / name).touch()

        def delete(folder: Path = folder, together: threading.Barrier = together) -> None:
            together.wait()
            delete_tree(locate(str(folder)))

        with ThreadPoolExecutor(_RIVALS) as pool:
            for deleting in [pool.submit(delete) for _ in range(_RIVALS)]:
                deleting.result()
        assert not folder.exists()
