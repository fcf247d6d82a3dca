"""Making the arrays of a history, and writing whole files of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.sync import sync

from weightcast.store.bounded import BoundedCodec
from weightcast.store.codecs import wide_codecs
from weightcast.store.layout import ATTRIBUTE, SHORT_CHUNK, Header, chunk_shape
from weightcast.store.transpose import parameter_major


def lay_out(path: Path, header: Header, dtype: np.dtype[Any], block: int) -> None:
    """Create the empty arrays, and the header last: without it the folder is no history."""
    group = zarr.create_group(path, zarr_format=3)
    # Only the weights have an error bound: one number cannot fit gradients or moments too.
    lossless = "fast" if header.preset == "bounded" else header.preset
    codecs = {"weights": wide_codecs(header.preset, header.error, dtype)}
    wide = [("weights", header.parameters, dtype, "parameter")]
    if header.buffers.size:
        wide.append(("buffers", header.buffers, np.dtype(np.float64), "buffer"))
    wide.extend((name, header.parameters, dtype, "parameter") for name in header.extras)
    for name, table, kind, axis in wide:
        group.create_array(
            name,
            shape=(table.size, 0),
            chunks=chunk_shape(table.size, block),
            dtype=kind,
            **codecs.get(name, wide_codecs(lossless, None, kind)),
            fill_value=float("nan"),
            dimension_names=(axis, "step"),
        )
    short_array(group, "step", np.dtype(np.int64), "step")
    short_array(group, "time", np.dtype(np.float64), "step")
    group.attrs[ATTRIBUTE] = header.to_json()


def short_array(group: zarr.Group, name: str, dtype: np.dtype[Any], axis: str) -> None:
    """Create an empty array of one axis, such as the steps."""
    group.create_array(
        name,
        shape=(0,),
        chunks=(SHORT_CHUNK,),
        dtype=dtype,
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()],
        fill_value=float("nan") if dtype.kind == "f" else 0,
        dimension_names=(axis,),
    )


def fill(array: zarr.Array[Any], start: int, columns: npt.NDArray[Any]) -> None:
    """Write columns from `start` on; wide arrays a file at a time.

    A file that they only begin is filled up with the last of them: of what lies past the shape
    nobody sees anything, and codecs make less of it than of the fill value. Not so if they are
    rounded: by the fill value `bounded` knows a file that is not complete, and keeps it exact.

    Of a shard, zarr hands PCodec views across files that are not contiguous, which it refuses.
    """
    if array.ndim == 1:
        _with_shape(array, (start + len(columns),))[start:] = columns
        return
    band, long = array.shards or array.chunks
    stop = start + columns.shape[1]
    rounded = isinstance(array.serializer, BoundedCodec)
    end = stop if rounded else -(-stop // long) * long
    grown = _with_shape(array, (array.shape[0], end))
    for a, b in pairwise([start, *range((start // long + 1) * long, end, long), end]):
        buffer = np.empty((band, b - a), array.dtype)  # one: new pages are not free
        for low in range(0, len(columns), band):
            part = buffer[: len(columns) - low]
            last = min(b, stop)
            parameter_major(
                columns[low : low + band, a - start : last - start].T, part[:, : last - a]
            )
            part[:, last - a :] = part[:, last - a - 1 : last - a]
            grown[low : low + band, a:b] = part


def _with_shape(array: zarr.Array[Any], shape: tuple[int, ...]) -> zarr.Array[Any]:
    """The same array as if it had another shape; nothing on disk changes."""
    now = array.async_array
    metadata: Any = now.metadata
    grown = zarr.Array(type(now)(metadata.update_shape(shape), store_path=now.store_path))
    # Write chunks of nothing but the fill value too: then a chunk that is missing is damage.
    return grown.with_config({"write_empty_chunks": True})


def grow(array: zarr.Array[Any], shape: tuple[int, ...]) -> None:
    """Give an array a longer shape. Zarr's own way looks through all chunks for some to delete."""
    sync(array.async_array.resize(shape, delete_outside_chunks=False))
