"""Indexes of images that a service searches: opened when they are first asked for."""

from __future__ import annotations

import threading

from raytrain_xai.run_folder import open_run
from raytrain_xai.serving.image_search import ImageSearch
from raytrain_xai.serving.model_store import ModelStore
from raytrain_xai.serving.served_model import ModelKey


class Searches:
    """Indexes of all models of a service; safe for threads. One that is made again is seen after a restart.

    Args:
        models: which know where the runs are.
    """

    def __init__(self, models: ModelStore) -> None:
        self._models = models
        self._opening = threading.Lock()
        self._opened: dict[tuple[ModelKey, str | None], ImageSearch] = {}

    def of(self, key: ModelKey, split: str | None) -> ImageSearch:
        """The index of a split, of the first one that has any for None.

        Raises:
            NotFoundError: no such model or index.
            ConfigError, DataError: the run is not there, or the index is damaged.
        """
        with self._opening:
            if (key, split) not in self._opened:
                self._opened[key, split] = ImageSearch(open_run(self._models.address(key).run), split)
            return self._opened[key, split]
