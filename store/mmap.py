"""A Zarr store whose values are memory maps: reading copies nothing."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from mmap import ACCESS_READ, ALLOCATIONGRANULARITY, mmap
from pathlib import Path
from typing import Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

# A map keeps a file descriptor of its own, unless Python can be asked not to.
_NO_DESCRIPTOR: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class MmapStore(LocalStore):
    """A local store that maps what it reads; writing is `zarr.storage.LocalStore`'s.

    A value is a read-only view of the file, of the bytes that were asked for: only pages that are
    looked at are read, and an uncompressed chunk larger than memory can be sliced. The store holds
    no maps: each lives as long as a buffer or array that refers to it.

    Parameters
    ----------
    root : str or Path
        Folder of the store.
    read_only : bool
        Whether writing is refused.

    Notes
    -----
    A writer that replaces a file in one step, as `LocalStore` and weightcast do, is safe beside a
    reader: the map goes on showing the file that was opened. **A file that is truncated in place
    while it is mapped, or a disk that fails to read a page, ends the process with SIGBUS**, which
    no ``except`` can catch; where others may truncate files, use `LocalStore`.

    Only regular files are values: a pipe, a device or a folder counts as missing.

    For compressed chunks that are in the page cache it is faster than `LocalStore`, and slower for
    those that are not: `LocalStore` reads several files at once. `History` reads with `LocalStore`,
    for that and because it must survive a failing disk; ``History(MmapStore(path))`` maps.

    Before Python 3.13 a map holds one file descriptor while it lives: holding more arrays than
    ``ulimit -n`` allows, each a view of a chunk of its own, fails with OSError.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr
    >>> path = tempfile.mkdtemp()
    >>> array = zarr.create_array(path, data=np.arange(6), chunks=(3,), compressors=None)
    >>> zarr.open_array(MmapStore(path), mode="r")[2:5]
    array([2, 3, 4])
    """

    def __repr__(self) -> str:
        return f"MmapStore('{self}')"

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Map a value, or part of it; None if there is none. For versions of Zarr that call it."""
        self._ensure_open_sync()
        return _mapped(self.root / key, prototype or default_buffer_prototype(), byte_range)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Map a value, or part of it; None if there is none."""
        if not self._is_open:
            await self._open()
        # In this thread: mapping reads no data, and a thread would take longer to wake up.
        return _mapped(self.root / key, prototype or default_buffer_prototype(), byte_range)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Map parts of several values, None for each that there is none of."""
        return [_mapped(self.root / key, prototype, byte_range) for key, byte_range in key_ranges]


def _mapped(path: Path, prototype: BufferPrototype, request: ByteRequest | None) -> Buffer | None:
    try:
        # O_NONBLOCK: opening a pipe would wait for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        start, stop = _span(request, found.st_size)
        if start >= stop:  # nothing cannot be mapped
            return prototype.buffer.create_zero_length()
        before = start % ALLOCATIONGRANULARITY
        pages = mmap(
            descriptor,
            stop - start + before,
            offset=start - before,
            access=ACCESS_READ,
            **_NO_DESCRIPTOR,
        )
    finally:
        os.close(descriptor)
    return prototype.buffer.from_bytes(memoryview(pages)[before:])


def _span(request: ByteRequest | None, size: int) -> tuple[int, int]:
    """First byte, and the byte after the last, of what is asked for of a file of that size."""
    match request:
        case None:
            return 0, size
        case RangeByteRequest(start, end):
            return start, min(end, size)
        case OffsetByteRequest(offset):
            return offset, size
        case SuffixByteRequest(suffix):
            return max(0, size - suffix), size
        case _:
            raise TypeError(f"Unexpected byte_range, got {request}.")  # as LocalStore says it
