"""Opening and reading Zarr groups that may be damaged, or may be anything: our errors only."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Mapping
from gzip import BadGzipFile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.errors import BaseZarrError
from zarr.storage import LocalStore

from weightcast.store.errors import (
    FormatError,
    InputNotFoundError,
    UsageError,
    WeightcastError,
)
from weightcast.store.form import refuse_foreign_codecs, strict
from weightcast.store.guard import Folder, GuardedStore
from weightcast.store.remote import Place, is_remote, open_url
from weightcast.store.swapping import interrupted

SETTLE_SECONDS = 30.0

# What zarr and the codecs raise on files that are not what they should be. No OSError of a failing
# disk or a missing permission: those say what they are.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    BadGzipFile,
    BaseZarrError,
    EOFError,
    LookupError,
    NotADirectoryError,
    RuntimeError,  # RecursionError too, from deeply nested JSON
    TypeError,
    ValueError,
    zlib.error,
)

MOST_FILES = 10_000_000  # that one read may touch
MANY_REQUESTS = 1000


def open_group(
    place: Place, mode: Any = "r", storage_options: Mapping[str, Any] | None = None
) -> zarr.Group:
    """Open a Zarr v3 group.

    Parameters
    ----------
    place : str, Path or zarr Store
        A local folder, a URL, or a store.
    mode : {"r", "r+"}
        Only a local folder can be written to.
    storage_options : mapping, optional
        For the library that opens a URL.

    Raises
    ------
    InputNotFoundError, FormatError
        If nothing is there, or no Zarr v3 group.
    RemoteError, MissingExtraError
        If a URL cannot be read.
    """
    store = (
        _open_local(place, mode) if not is_remote(place) else _open_remote(place, storage_options)
    )
    try:
        return zarr.open_group(store, mode=mode, zarr_format=3, use_consolidated=False)
    except WeightcastError:
        raise
    except FileNotFoundError as error:
        raise InputNotFoundError(
            f"{store} is not there, or not a Zarr v3 group: it has no zarr.json"
        ) from error
    except DAMAGE as error:
        raise FormatError(f"{store} is not a Zarr v3 group: {one_line(error)}") from error


def _open_local(place: Any, mode: str) -> Store:
    path = Path(place)
    if not path.exists():
        advice = interrupted(path) or "give the folder of a Zarr group"
        raise InputNotFoundError(f"{path} does not exist: {advice}")
    if not (path / "zarr.json").is_file():
        raise FormatError(f"{path} is not a Zarr v3 group: it is no folder with a zarr.json")
    store = LocalStore(path)
    return store if mode != "r" else GuardedStore(store, str(path), Folder(path))


def _open_remote(place: Any, options: Mapping[str, Any] | None) -> Store:
    if not isinstance(place, Store):
        return GuardedStore(open_url(place, options), place)
    if options:
        raise UsageError("storage options go with a URL: a store has its own")
    return GuardedStore(place, str(place))


def open_array(group: zarr.Group, name: str, kinds: str, ndim: int, least: int) -> zarr.Array[Any]:
    """Open an array of a group, checking its form.

    Parameters
    ----------
    group : zarr.Group
        As `open_group` gave it.
    name : str
        Path of the array within the group.
    kinds : str
        dtypes it may have, separated by spaces.
    ndim : int
        Axes it must have.
    least : int
        Length that its last axis must have at least.

    Returns
    -------
    zarr.Array
        Reading a chunk of it that is missing is a FormatError, and not the fill value.

    Raises
    ------
    FormatError
        If it is not there, or not of this form.
    """
    path = f"{group.store_path.store}/{name}".removeprefix("file://")
    try:
        array = group[name]
        if not isinstance(array, zarr.Array) or array.ndim != ndim:
            raise FormatError(f"{path} is damaged: it is not an array of {ndim} axes")
        if str(array.dtype) not in kinds.split():
            raise FormatError(f"{path} is damaged: its dtype is {array.dtype}, not {kinds}")
        if array.shape[-1] < least:
            raise FormatError(
                f"{path} is damaged: it holds {array.shape[-1]} steps, not {least} steps"
            )
        refuse_foreign_codecs(array, path)
        return strict(array, path, least)
    except WeightcastError:
        raise
    except DAMAGE as error:
        raise FormatError(f"{path} is damaged or missing: {one_line(error)}") from error


def read(array: zarr.Array[Any], selection: tuple[slice | int, ...]) -> npt.NDArray[Any]:
    """Read part of an array.

    Raises
    ------
    FormatError
        If a chunk is missing, which Zarr itself would read as fill values, or does not decode.
    """
    require_chunks(array, selection)
    try:
        return np.asarray(array[selection])
    except WeightcastError:
        raise
    except (*DAMAGE, MemoryError) as error:  # a chunk may claim any length
        settle()
        raise FormatError(
            f"{array.store_path} is damaged, {_one_of(array, selection)} does not decode: "
            f"{one_line(error)}: weightcast verify says what is lost"
        ) from error


def settle() -> None:
    """Wait for what zarr still does beside a chunk that failed.

    Left alone, it goes on writing, and asyncio complains on stderr when the process ends.
    """
    sync(_settled())


async def _settled() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=SETTLE_SECONDS)


def require_chunks(array: zarr.Array[Any], selection: tuple[slice | int, ...]) -> None:
    """Check that the chunks are there, before anything is allocated for them.

    A shape in a file may be any number. Of a remote array each chunk would cost a request, so that
    there only the last of very many is looked for, and `read` finds the others.

    Raises
    ------
    FormatError
        Naming the first that is missing.
    """
    touched = _touched(array, selection)
    store, count = array.store_path.store, math.prod(t.stop - t.start for t in touched)
    if count > MOST_FILES:
        raise FormatError(f"{array.store_path} is damaged: it would have {count} chunks")
    if isinstance(store, LocalStore):  # a writer's
        store = GuardedStore(store, str(store))
    if not isinstance(store, GuardedStore) or not count:
        return
    if store.is_local:
        keys = (array.metadata.encode_chunk_key(place) for place in product(*touched))
        missing = next((key for key in keys if not store.holds_file(f"{array.path}/{key}")), None)
    else:
        missing = array.metadata.encode_chunk_key(tuple(t.stop - 1 for t in touched))
        if count <= MANY_REQUESTS or sync(store.exists(f"{array.path}/{missing}")):
            missing = None
    if missing is not None:
        raise FormatError(f"{array.store_path} is damaged: chunk {missing} is missing")


def _touched(array: zarr.Array[Any], selection: tuple[slice | int, ...]) -> list[range]:
    """Chunk files that a selection needs, along each axis."""
    touched = []
    for part, length, width in zip(
        selection, array.shape, array.shards or array.chunks, strict=True
    ):
        first, stop, _ = (part if isinstance(part, slice) else slice(part, part + 1)).indices(
            length
        )
        touched.append(range(first // width, -(-stop // width) if stop > first else 0))
    return touched


def _one_of(array: zarr.Array[Any], selection: tuple[slice | int, ...]) -> str:
    """What to call the chunk files that a selection needs."""
    touched, key = _touched(array, selection), array.metadata.encode_chunk_key
    if any(not indices for indices in touched):
        return "a chunk"
    first, last = key(tuple(t[0] for t in touched)), key(tuple(t[-1] for t in touched))
    return f"chunk {first}" if first == last else f"a chunk from {first} to {last}"


def one_line(error: BaseException) -> str:
    """Text of somebody else's exception, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
