"""Rows per second of shuffled vectors for the training of a concept layer, from exported shards.

Against the loader that such code commonly has, which draws single rows of a tensor in memory and stacks them, and
against row groups of a Parquet file. All three deliver float32 batches divided by one scale.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from bench.timing import Options, Result, interleave
from raytrain_xai.data.feature_shards import FeatureStore
from raytrain_xai.data.feature_store import FeaturePlan, claim_store, finish_store, write_shard
from raytrain_xai.features.source import StoredVectors
from raytrain_xai.storage import locate

DIM, ROWS, SHARD_ROWS, BATCH = 1024, 65536, 16384, 4096
SPEED_UP = {"row loader": 1.5, "parquet": 4.0}
TOLERANCE = 2.0**-11  # of half precision


@dataclass(frozen=True)
class Feed:
    """One epoch of batches, and how much memory of its own the process holds for it, MiB."""

    epoch: Callable[[], Iterator[Tensor]]
    held_mib: float


def run(options: Options) -> list[Result]:
    """D 1024; an epoch of 65536 rows."""
    vectors = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0)) * 3
    scale = float(vectors.square().sum(dim=1).mean().sqrt())
    with tempfile.TemporaryDirectory() as folder:
        _write_store(Path(folder), vectors)
        _write_parquet(Path(folder), vectors)
        total = vectors.sum(dim=0, dtype=torch.float64) / scale
        del vectors
        feeds = {
            "ours": _held(lambda: _of_store(Path(folder), options)),
            "row loader": _held(lambda: _of_row_loader(Path(folder), scale, options)),
            "parquet": _held(lambda: _of_parquet(Path(folder), scale, options)),
        }
        errors = {name: _error(feed, total) for name, feed in feeds.items()}
        timings = interleave({name: lambda feed=feed: _drain(feed) for name, feed in feeds.items()}, options)
    rates = {name: ROWS / timings.median_s(name) for name in feeds}
    ours = f"ours {rates['ours'] / 1e3:.0f} k rows/s, {feeds['ours'].held_mib:.0f} MiB held"
    return [
        Result(
            bench="sae_feed",
            case=f"D {DIM}, against {name}",
            value=timings.ratio(name, "ours"),
            measure="speed-up",
            target=target,
            is_minimum=True,
            error=max(errors["ours"], errors[name]),
            tolerance=TOLERANCE,
            detail=f"{ours}; {name} {rates[name] / 1e3:.0f} k rows/s, {feeds[name].held_mib:.0f} MiB held",
        )
        for name, target in SPEED_UP.items()
    ]


def _of_store(folder: Path, options: Options) -> Callable[[], Iterator[Tensor]]:
    store = FeatureStore(locate(str(folder / "store")))
    source = StoredVectors(store, batch_size=BATCH, seed=0, rank=0, world_size=1, device=options.device)
    return lambda: source.epoch(0)


def _of_row_loader(folder: Path, scale: float, options: Options) -> Callable[[], Iterator[Tensor]]:
    rows = torch.cat([batch.to(torch.float32) for batch in _groups(folder)])
    loader = DataLoader(TensorDataset(rows), batch_size=BATCH, shuffle=True, drop_last=True)
    return lambda: (batch.to(options.device) / scale for [batch] in loader)


def _of_parquet(folder: Path, scale: float, options: Options) -> Callable[[], Iterator[Tensor]]:
    return lambda: (batch.to(options.device, torch.float32) / scale for batch in _groups(folder))


def _groups(folder: Path) -> Iterator[Tensor]:
    """Row groups of the Parquet file in random order, rows shuffled within."""
    file = pq.ParquetFile(folder / "rows.parquet")
    for group in torch.randperm(file.num_row_groups).tolist():
        values = file.read_row_group(group)["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        rows = torch.from_numpy(values.copy()).view(-1, DIM)
        yield rows[torch.randperm(len(rows))]


def _write_store(folder: Path, vectors: Tensor) -> None:
    at = locate(str(folder / "store"))
    plan = FeaturePlan(
        tap="layer3", dim=DIM, size=(14, 14), per_image=1, sampling="contribution", seed=0, network_name="none",
        network="none", data="none", split="train", num_images=ROWS, images_per_shard=SHARD_ROWS, image_size=224,
        eval_resize=None,
    )  # fmt: skip
    claim_store(at, plan)
    parts = vectors.split(SHARD_ROWS)
    finish_store(at, plan, [write_shard(at, plan, shard, part) for shard, part in enumerate(parts)])


def _write_parquet(folder: Path, vectors: Tensor) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.flatten().numpy()), DIM)
    table = pa.table({"vector": column})
    pq.write_table(table, folder / "rows.parquet", row_group_size=BATCH, compression="none", use_dictionary=False)


def _held(make: Callable[[], Callable[[], Iterator[Tensor]]]) -> Feed:
    before = _anonymous_mib()
    epoch = make()
    first = next(epoch())
    held = _anonymous_mib() - before
    del first
    return Feed(epoch, held)


def _anonymous_mib() -> float:
    """Memory of this process that belongs to no file; mapped files can be dropped by the system at any time."""
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps of earlier work is not held by anybody
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no RssAnon in /proc/self/status; this bench needs Linux")


def _drain(feed: Feed) -> None:
    for batch in feed.epoch():
        batch[0, 0].item()


def _error(feed: Feed, total: Tensor) -> float:
    """Relative difference of the sum of all rows of an epoch."""
    seen = sum(batch.sum(dim=0, dtype=torch.float64).cpu() for batch in feed.epoch())
    return float((seen - total).norm() / total.norm())
