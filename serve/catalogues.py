"""The concepts of the served models: opened when they are first asked for, without loading a network."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from raytrain_xai.errors import CheckpointError, ConfigError, DataError, NotFoundError
from raytrain_xai.serving.catalogue_view import open_views
from raytrain_xai.serving.concept_view import ConceptView
from raytrain_xai.serving.model_store import ModelStore
from raytrain_xai.serving.served_model import ModelKey, split_key
from serve.problems import ProblemError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedConcepts:
    """Concepts of a version of a model: layer -> concepts, the layer that is meant when none is named last."""

    key: ModelKey
    views: Mapping[str, ConceptView]

    def view(self, layer: str | None) -> ConceptView:
        """Concepts of a layer, of the last one for None.

        Raises:
            NotFoundError: the model has no concepts, or none at this layer.
        """
        if not self.views:
            raise NotFoundError(f"{self.key.name} has no concepts; it can be explained with heatmaps only")
        if layer is None:
            return list(self.views.values())[-1]
        if layer not in self.views:
            raise NotFoundError(f"no concepts at {layer!r}; {self.key.name} has some at {', '.join(self.views)}")
        return self.views[layer]


class Catalogues:
    """Concepts of all models of a service; safe for threads.

    Args:
        models: which know where the runs are.
    """

    def __init__(self, models: ModelStore) -> None:
        self._models = models
        self._opening = threading.Lock()
        self._opened: dict[ModelKey, ServedConcepts] = {}

    def of(self, model: str) -> ServedConcepts:
        """Concepts of ``NAME`` (of its first version with a weight) or ``NAME@VERSION``; none for a plain network.

        Raises:
            NotFoundError: no such model or version.
            ProblemError: what is stored of it cannot be read.
        """
        key = self._models.resolve(*split_key(model), 0.0)
        with self._opening:
            if key not in self._opened:
                self._opened[key] = ServedConcepts(key, self._open(key))
            return self._opened[key]

    def _open(self, key: ModelKey) -> Mapping[str, ConceptView]:
        address = self._models.address(key)
        try:
            return open_views([*address.also, address.run])
        except (ConfigError, CheckpointError, DataError) as error:  # of our files, no fault of the request
            _logger.exception("the concepts of %s cannot be read", key)
            raise _unreadable() from error


@contextmanager
def reading_stored() -> Generator[None]:
    """Failures to read or write what is stored become 503: they are no fault of the request, and name our folders."""
    try:
        yield
    except (CheckpointError, DataError) as error:
        _logger.exception("the files of a run cannot be read or written")
        raise _unreadable() from error


def _unreadable() -> ProblemError:
    return ProblemError(503, "what is stored of this model cannot be read or written at the moment; try again later")
