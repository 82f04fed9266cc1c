"""The models that are served, loaded when they are needed and kept while they fit."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import accumulate

import torch

from raytrain_xai.errors import ConfigError, NotFoundError
from raytrain_xai.run_folder import open_run, read_config
from raytrain_xai.serving.served_insight import ServedInsight
from raytrain_xai.serving.served_model import ModelKey, RunAddress, ServedModel

Served = ServedModel | ServedInsight
Load = Callable[[ModelKey, RunAddress, torch.device | str], Served]


def load_served(key: ModelKey, address: RunAddress, device: torch.device | str = "cpu") -> Served:
    """The model of a run: of a classifier, of its concepts, or of the concepts of an encoder.

    Raises:
        ConfigError: not a run, ``also`` does not fit it, or its encoder is not there.
        CheckpointError: no checkpoint, or it is damaged.
    """
    kind = ServedInsight if "encoder" in read_config(open_run(address.run)) else ServedModel
    return kind.load(key, address, device)


class ModelStore:
    """Versions of models within a bound of memory; may be used from several threads.

    Args:
        models: name -> version -> where it comes from; each name has a version with a weight above 0.
        memory_bytes: bound on the sum of what loaded models hold. Beyond it come, for a while, a model that is being
            read and one that was put out and still answers.
        device: where networks are put.
        on_change: told what is loaded after every change; must return at once.
        load: reads a run.
    """

    def __init__(
        self, models: Mapping[str, Mapping[str, RunAddress]], *, memory_bytes: int, device: torch.device | str = "cpu",
        on_change: Callable[[Mapping[ModelKey, int]], None] | None = None, load: Load = load_served,
    ) -> None:  # fmt: skip
        self._models = {name: dict(versions) for name, versions in models.items()}
        self._memory_bytes = memory_bytes
        self._device = device
        self._on_change = on_change
        self._load = load
        self._lock = threading.Lock()  # of the two below; never held while a run is read
        self._loaded: OrderedDict[ModelKey, Served] = OrderedDict()  # used longest ago first
        self._loading: dict[ModelKey, Future[Served]] = {}

    def names(self) -> tuple[str, ...]:
        """Models, in the order they were given."""
        return tuple(self._models)

    def shares(self, name: str) -> dict[str, float]:
        """Version -> share of the images that name no version; they sum to 1.

        Raises:
            NotFoundError: no such model.
        """
        versions = self._versions(name)
        total = sum(address.weight for address in versions.values())
        return {version: address.weight / total for version, address in versions.items()}

    def address(self, key: ModelKey) -> RunAddress:
        """Where a version comes from.

        Raises:
            NotFoundError: no such model or version.
        """
        return self._models[key.name][self.resolve(key.name, key.version, 0.0).version]

    def resolve(self, name: str, version: str | None, draw: float) -> ModelKey:
        """The version that answers.

        Args:
            version: as asked for; None lets ``draw`` decide.
            draw: in [0, 1), the same for the same image: versions share the interval by their weights, in order.
        Raises:
            NotFoundError: no such model or version; the message lists what there is.
        """
        versions = self._versions(name)
        if version is None:
            ends = list(accumulate(address.weight for address in versions.values()))
            return ModelKey(name, list(versions)[bisect_right(ends, draw * ends[-1])])
        if version not in versions:
            raise NotFoundError(f"no version {version!r} of model {name}; there are {', '.join(versions)}")
        return ModelKey(name, version)

    def get(self, key: ModelKey) -> Served:
        """The loaded model, warm; reads it when it is not loaded, once however many ask, while others are served.

        Raises:
            NotFoundError: no such model or version.
            ConfigError: not a run, or larger than the bound.
            CheckpointError: no checkpoint, it is damaged, or its explanations are broken. A later call tries again.
        """
        address = self.address(key)
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
                return self._loaded[key]
            future = self._loading.get(key)
            is_mine = future is None
            if future is None:
                future = self._loading[key] = Future()
        if not is_mine:
            return future.result()
        try:
            model = self._read(key, address)
        except BaseException as error:
            with self._lock:
                del self._loading[key]
            future.set_exception(error)
            raise
        self._keep(model)
        future.set_result(model)  # before others are told: those who wait must not depend on them
        if self._on_change is not None:
            self._on_change(self.loaded())
        return model

    def loaded(self) -> dict[ModelKey, int]:
        """Bytes of each loaded model, used longest ago first."""
        with self._lock:
            return {key: model.nbytes for key, model in self._loaded.items()}

    def last_used(self) -> Served | None:
        """The loaded model that was used last, without counting as use; None while none is loaded."""
        with self._lock:
            return next(reversed(self._loaded.values()), None)

    def _versions(self, name: str) -> Mapping[str, RunAddress]:
        if name not in self._models:
            raise NotFoundError(f"no model {name!r}; there are {', '.join(self._models)}")
        return self._models[name]

    def _read(self, key: ModelKey, address: RunAddress) -> Served:
        model = self._load(key, address, self._device)
        if model.nbytes > self._memory_bytes:
            raise ConfigError(
                f"model {key} needs {model.nbytes:,} bytes, more than the {self._memory_bytes:,} for all models; "
                "raise replica.memory_bytes"
            )
        model.self_check()
        model.warm_up()
        return model

    def _keep(self, model: Served) -> None:
        with self._lock:
            sizes = {key: other.nbytes for key, other in self._loaded.items()}
            free = self._memory_bytes - model.nbytes - sum(sizes.values())
            while free < 0:
                key, _ = self._loaded.popitem(last=False)
                free += sizes[key]
            self._loaded[model.key] = model
            del self._loading[model.key]
