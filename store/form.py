"""What arrays of a history may be like: codecs that we know, and chunks of a sane size."""

from __future__ import annotations

import math
from typing import Any

import zarr
from zarr.storage import StorePath

from weightcast.store.errors import FormatError
from weightcast.store.guard import GuardedStore

# Codecs that a history may be stored with, besides our own: those that decode numbers and do
# nothing else. Not "transpose": before PCodec, zarr 3.1 scrambles the data without an error.
CODECS = ("bytes", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed", "numcodecs.pcodec")
MOST_CHUNK_BYTES = (1 << 31) - 1  # decoded: more than Blosc can hold
MOST_UNCOMMITTED = 1 << 18  # files: zarr visits each when the array is appended to
MOST_INNER_CHUNKS = 1 << 22  # of a shard: 64 MB of index


def refuse_foreign_codecs(array: zarr.Array[Any], path: str) -> None:
    """Check that an array is stored with codecs that we know, and so know to be harmless.

    Raises
    ------
    FormatError
    """
    metadata: Any = array.metadata
    pending = [codec.to_dict() for codec in metadata.codecs]
    while pending:
        codec: Any = pending.pop()
        name, settings = codec["name"], codec.get("configuration", {})
        if name not in CODECS and not name.startswith("weightcast."):
            raise FormatError(
                f"{path} is stored with codec {name!r}, which no history has: {', '.join(CODECS)}"
            )
        if name == "sharding_indexed":
            pending += [*settings["codecs"], *settings["index_codecs"]]


def strict(array: zarr.Array[Any], path: str, committed: int) -> zarr.Array[Any]:
    """The same array, on a store that refuses missing and oversized chunks.

    Raises
    ------
    FormatError
        If its chunks are larger than any that a history has, or it has more of them past the
        committed entries than a writer that was killed could leave.
    """
    item, file = array.dtype.itemsize, array.shards or array.chunks
    inner = _cells(file, array.chunks)
    if math.prod(array.chunks) * item > MOST_CHUNK_BYTES or inner > MOST_INNER_CHUNKS:
        raise FormatError(f"{path} is damaged: its chunks are {array.chunks} in files of {file}")
    left_over = _cells(array.shape, file) - _cells((*array.shape[:-1], committed), file)
    if left_over > MOST_UNCOMMITTED:
        raise FormatError(
            f"{path} is damaged: it has {array.shape[-1]} entries, {committed} of them committed"
        )
    store = array.store_path.store
    if not isinstance(store, GuardedStore):
        return array
    limit = 16 * math.prod(file) * item + (1 << 20)  # small chunks have larger heads than values
    place = StorePath(store.for_chunks(limit), array.path)
    metadata: Any = array.metadata
    return zarr.Array(type(array.async_array)(metadata, store_path=place))


def _cells(shape: tuple[int, ...], cell: tuple[int, ...]) -> int:
    return math.prod(-(-n // c) for n, c in zip(shape, cell, strict=True))
