"""Chunks of a history's wide array, decoded straight into one buffer that is used again.

Zarr takes a chunk through an event loop, a thread and three copies. Here the file is read, its
checksum compared, and the codec writes into the buffer, whose memory pages are there already; the
codecs release Python's lock. What is not stored as a history is goes through Zarr as ever.

::

    c/3/7  ->  bytes | crc32c  ->  Blosc, PCodec or bounded  ->  buffer  ->  view [weights, steps]
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import blosc
from pcodec import standalone
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.codecs.numcodecs import PCodec

from weightcast.store import rounded
from weightcast.store.bounded import BoundedCodec
from weightcast.store.errors import FormatError
from weightcast.store.guard import GuardedStore
from weightcast.store.reading import DAMAGE, one_line, read

Values = npt.NDArray[Any]
Decode = Callable[[bytes, Values], Values]  # of a whole chunk, into the buffer if it can

CHECKSUM_BYTES = 4
_BLOSC_SIZES = struct.Struct("<4xIII")  # decoded, of a block, encoded


class ChunkReader:
    """Reads an array a chunk at a time.

    One thread uses it; several threads take a reader each.

    Parameters
    ----------
    array : zarr.Array
        Of two axes, such as `History.weights`.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import History, HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("w", (2,), "float32", "weight")])
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with HistoryWriter.create(path, table) as writer:
    ...     writer.append([0, 10], [0.0, 0.5], np.float32([[1, 2], [3, 4]]))
    >>> ChunkReader(History(path).weights).read(0, 2, 0, 2)
    array([[1., 3.],
           [2., 4.]], dtype=float32)
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self._decode = _decoder(array)
        self._buffer: Values | None = None

    def read(self, low: int, high: int, start: int, stop: int) -> Values:
        """Values of the weights from `low` to `high` at the columns from `start` to `stop`.

        Parameters
        ----------
        low, high, start, stop : int
            A range that lies within one chunk is read fast, any other as by `reading.read`.

        Returns
        -------
        array, shape (high - low, stop - start)
            Of the array's dtype. The next call may overwrite it. Uncommitted columns hold what
            happens to be in the chunk: leaving them out is up to the caller.

        Raises
        ------
        FormatError
            If the chunk is missing or damaged, naming it, or if the folder was replaced since it
            was opened.

        Notes
        -----
        The whole chunk is decoded at each call: read all that is needed of it at once.
        """
        array = self._array
        height, width = array.chunks
        row, column = low // height, start // width
        inside = 0 <= low < high <= min((row + 1) * height, array.shape[0])
        inside &= 0 <= start < stop <= min((column + 1) * width, array.shape[1])
        if self._decode is None or not inside:
            return read(array, (slice(low, high), slice(start, stop)))
        if self._buffer is None:
            self._buffer = np.empty(array.chunks, array.dtype)
        file = f"{array.path}/{array.metadata.encode_chunk_key((row, column))}"
        values = _read_chunk(array.store_path.store, file, self._decode, self._buffer)
        first, begin = row * height, column * width
        return values[low - first : high - first, start - begin : stop - begin]


def _decoder(array: zarr.Array[Any]) -> Decode | None:
    """What decodes a chunk file, less its checksum; None where Zarr has to."""
    store = array.store_path.store
    opened_by_us = isinstance(store, GuardedStore) and store.folder is not None
    if not opened_by_us or array.shards is not None or array.filters:
        return None
    match (array.serializer, *array.compressors):
        case BytesCodec(endian=order), BloscCodec(), Crc32cCodec():
            return _blosc if order is not None and order.value == sys.byteorder else None
        case PCodec(), Crc32cCodec():
            return _pcodec
        case BoundedCodec(error=error), Crc32cCodec():
            return partial(_bounded, error)
    return None


def _read_chunk(store: Any, file: str, decode: Decode, out: Values) -> Values:
    """Decode a chunk of a local folder, checked at every step.

    Raises
    ------
    FormatError
    """
    path = store.folder.path / file
    try:
        if not store.holds_file(file):  # nor a folder, a pipe or a device
            raise FileNotFoundError
        with path.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            body = opened.read(max(size - CHECKSUM_BYTES, 0))
            checksum = opened.read(CHECKSUM_BYTES)
    except FileNotFoundError as error:
        store.folder.require_unchanged()
        raise FormatError(
            f"{path} is damaged: the chunk is missing: weightcast verify says what is lost"
        ) from error
    store.folder.require_unchanged()
    try:
        if checksum != google_crc32c.value(body).to_bytes(CHECKSUM_BYTES, "little"):
            raise ValueError(f"the checksum of its {size} bytes is wrong")
        return decode(body, out)
    except (*DAMAGE, MemoryError) as error:
        raise FormatError(
            f"{path} is damaged, the chunk does not decode: {one_line(error)}: weightcast verify "
            "says what is lost"
        ) from error


def _blosc(body: bytes, out: Values) -> Values:
    # Blosc itself trusts the sizes in its header.
    decoded, _, encoded = _BLOSC_SIZES.unpack_from(body.ljust(16, b"\0"))
    if (decoded, encoded) != (out.nbytes, len(body)):
        raise ValueError(
            f"{len(body)} bytes should be {encoded}, and decode to {out.nbytes}: it is {decoded}"
        )
    blosc.decompress(body, out)
    return out


def _pcodec(body: bytes, out: Values) -> Values:
    progress = standalone.simple_decompress_into(body, out.reshape(-1))
    if progress.n_processed != out.size or not progress.finished:
        raise ValueError(f"it does not hold {out.size} numbers")
    return out


def _bounded(error: float, body: bytes, out: Values) -> Values:
    height, width = out.shape
    return rounded.decode(body, (height, width), out.dtype, float(error), out)
