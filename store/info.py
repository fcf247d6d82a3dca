"""What a history says of itself: sizes and facts, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from zarr.core.common import concurrent_map
from zarr.core.sync import sync

from weightcast.store.errors import RemoteError
from weightcast.store.expected import expected_arrays
from weightcast.store.reading import require_chunks
from weightcast.store.ring import in_use

if TYPE_CHECKING:
    from weightcast.store.history import History

AT_ONCE = 64  # requests to a store that cannot list


@dataclass(frozen=True)
class HistoryInfo:
    """What `History.info` reports; sizes in bytes, `ratio` is raw over stored.

    `error` is the absolute error bound of the weights; None if they are stored exactly.
    """

    path: str
    parameters: list[tuple[str, tuple[int, ...], str, str]]
    weights: int
    recorded: int
    first_step: int | None
    last_step: int | None
    schedule: str
    preset: str
    error: float | None
    chunks: tuple[int, int]
    arrays: list[str]
    recording: bool
    raw_bytes: int
    stored_bytes: int
    metrics: list[str]
    versions: dict[str, str]
    metadata: dict[str, Any]

    @property
    def ratio(self) -> float:
        """How many times smaller the folder is than the plain numbers."""
        return self.raw_bytes / max(self.stored_bytes, 1)


def describe(history: History) -> HistoryInfo:
    """What `History.info` gives."""
    wide = history.wide.values()
    row_bytes = sum(array.shape[0] * np.dtype(array.dtype).itemsize for array in wide)
    return HistoryInfo(
        path=str(history.path),
        parameters=[(p.name, p.shape, p.dtype, p.kind) for p in history.parameters],
        weights=history.parameters.size,
        recorded=len(history),
        first_step=int(history.steps[0]) if len(history) else None,
        last_step=int(history.steps[-1]) if len(history) else None,
        schedule=history.header.schedule,
        preset=history.header.preset,
        error=history.header.error,
        chunks=cast("tuple[int, int]", history.weights.chunks),
        arrays=list(history.wide),
        recording=isinstance(history.path, Path) and in_use(history.path),
        raw_bytes=row_bytes * len(history),
        stored_bytes=_stored_bytes(history),
        metrics=history.metrics,
        versions=history.header.versions,
        metadata=history.header.metadata,
    )


def prefix_bytes(history: History, below: str = "") -> int:
    """Bytes of all files below a part of a history; 0 or an error if its store cannot list them."""
    store: Any = history.group.store_path.store
    prefix = f"{history.group.path}/{below}".strip("/")
    return cast("int", sync(store.getsize_prefix(prefix)))


def _stored_bytes(history: History) -> int:
    """Bytes of all files; of those that must be there, if the store cannot list them."""
    store: Any = history.group.store_path.store
    try:
        listed = prefix_bytes(history)
    except RemoteError:
        listed = 0
    if listed:
        return listed
    arrays = [expected.open(history.group) for expected in expected_arrays(history.header)]
    keys = [("zarr.json",), *((key,) for array in arrays for key in _keys(array))]
    return sum(sync(concurrent_map(keys, store.getsize, limit=AT_ONCE)))


def _keys(array: zarr.Array[Any]) -> Iterator[str]:
    """Every file of an array."""
    require_chunks(array, (slice(None),) * array.ndim)
    widths = array.shards or array.chunks
    cells = (range(-(-n // w)) for n, w in zip(array.shape, widths, strict=True))
    yield f"{array.path}/zarr.json"
    yield from (f"{array.path}/{array.metadata.encode_chunk_key(c)}" for c in product(*cells))
