"""What stands between Zarr and a store that may be damaged, hostile, remote or replaced."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Self, TypeVar

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from weightcast.store.errors import FormatError, RemoteError, WeightcastError

METADATA_BYTES = 256 << 20  # of a zarr.json: a table of 100,000 parameters has 15 MB
Answer = TypeVar("Answer")


class GuardedStore(WrapperStore[Store]):
    """A read-only view of a store, with our errors instead of surprises.

    A folder, pipe or device in place of a file is a missing one; a file too large for what it
    should be is refused before it is read; whatever a remote store raises is a `RemoteError`; and
    a local folder that was replaced since it was opened is refused, so that values of two
    histories never mix.

    Parameters
    ----------
    store : zarr.abc.store.Store
    name : str
        What messages call it: a path or a URL.
    folder : Folder, optional
        Of a local store, the folder as it was when it was opened.
    limit : int
        Bytes that a value may have.
    complete : bool
        Whether a missing value is damage, as it is for chunks.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        folder: Folder | None = None,
        *,
        limit: int = METADATA_BYTES,
        complete: bool = False,
    ) -> None:
        super().__init__(store)
        self.name, self.folder, self.limit, self.complete = name, folder, limit, complete

    def for_chunks(self, limit: int) -> GuardedStore:
        """The same store, for the chunks of an array, of which none may be missing."""
        return GuardedStore(self._store, self.name, self.folder, limit=limit, complete=True)

    @property
    def is_local(self) -> bool:
        """Whether asking for a value costs no request."""
        return isinstance(self._store, LocalStore)

    @property
    def read_only(self) -> bool:
        """Always."""
        return True

    def with_read_only(self, read_only: bool = True) -> Self:
        """Itself, for it cannot be written to."""
        if not read_only:
            raise ValueError("a guarded store is read-only")
        return self

    def __str__(self) -> str:
        return self.name

    def holds_file(self, key: str) -> bool:
        """Whether a local key is a file, and no larger than allowed; True for a remote key."""
        if not isinstance(self._store, LocalStore):
            return True
        try:
            found = (self._store.root / key).stat()
        except PermissionError:
            raise
        except (OSError, ValueError):  # not there; a loop of links; a name that cannot be
            return False
        if stat.S_ISREG(found.st_mode) and found.st_size > self.limit:
            raise self._too_large(key, found.st_size)
        return stat.S_ISREG(found.st_mode)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """A value, or part of it; None if there is none and there need not be one."""
        value = None
        if self.holds_file(key):
            value = await self._ask(self._store.get(key, prototype, byte_range))
        if self.folder is not None:
            self.folder.require_unchanged()
        if value is None and self.complete:
            raise FormatError(f"{self.name} is damaged: chunk {key} is missing")
        if value is not None and len(value) > self.limit:
            raise self._too_large(key, len(value))
        return value

    async def exists(self, key: str) -> bool:
        """Whether there is such a value."""
        return self.holds_file(key) and await self._ask(self._store.exists(key))

    async def getsize(self, key: str) -> int:
        """Bytes of a value."""
        return await self._ask(self._store.getsize(key))

    async def getsize_prefix(self, prefix: str) -> int:
        """Bytes of all values whose keys begin so."""
        if isinstance(self._store, LocalStore):
            return sum(map(_size, (self._store.root / prefix).rglob("*")))
        return await self._ask(self._store.getsize_prefix(prefix))

    def _too_large(self, key: str, size: int) -> FormatError:
        return FormatError(
            f"{self.name} is damaged: {key} has {size} bytes, and at most {self.limit} make sense"
        )

    async def _ask(self, answer: Awaitable[Answer]) -> Answer:
        if self.is_local:
            return await answer
        try:
            return await answer
        except WeightcastError:
            raise
        except Exception as error:  # of any library: each has errors of its own
            raise unanswered(self.name, error) from error


def _size(path: Path) -> int:
    """Bytes of a file; none of what a writer has just removed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def unanswered(name: str, error: BaseException) -> RemoteError:
    """What to raise where a remote store raised `error`."""
    text = " ".join(str(error).split()).partition(" Debug source:")[0]  # obstore: pages of it
    return RemoteError(f"{name} cannot be read: {type(error).__name__}: {text}")


class Folder:
    """A local folder, held open so that another one in its place is told from it.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def require_unchanged(self) -> None:
        """Check that the path still leads to this folder.

        Raises
        ------
        FormatError
            If it was replaced, moved or deleted.
        """
        try:
            same = os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except (FileNotFoundError, NotADirectoryError):
            same = False
        if not same:
            raise FormatError(
                f"{self.path} was replaced or moved after it was opened: open it again"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return Folder, (self.path,)
