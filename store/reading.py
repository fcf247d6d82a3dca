"""Opening and reading Zarr groups that may be damaged, or may be anything: our errors only."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.errors import BaseZarrError
from zarr.storage import LocalStore

from weightcast.store.errors import FormatError, InputNotFoundError

# What zarr and the codecs raise on files that are not what they should be. No OSError of a failing
# disk or a missing permission: those say what they are.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    BaseZarrError,
    LookupError,
    NotADirectoryError,
    RuntimeError,  # RecursionError too, from deeply nested JSON
    TypeError,
    ValueError,
)


def open_group(path: Path, mode: Any = "r") -> zarr.Group:
    """Open a Zarr v3 group.

    Raises
    ------
    InputNotFoundError, FormatError
        If nothing is there, or no Zarr v3 group.
    """
    if not path.exists():
        raise InputNotFoundError(f"{path} does not exist: give the folder of a Zarr group")
    if not (path / "zarr.json").is_file():
        raise FormatError(f"{path} is not a Zarr v3 group: it is no folder with a zarr.json")
    try:
        return zarr.open_group(path, mode=mode, zarr_format=3, use_consolidated=False)
    except DAMAGE as error:
        raise FormatError(f"{path} is not a Zarr v3 group: {one_line(error)}") from error


def open_array(group: zarr.Group, name: str, kinds: str, ndim: int, least: int) -> zarr.Array[Any]:
    """Open an array of a group, checking its form.

    Parameters
    ----------
    group : zarr.Group
    name : str
        Path of the array within the group.
    kinds : str
        dtypes it may have, separated by spaces.
    ndim : int
        Axes it must have.
    least : int
        Length that its last axis must have at least.

    Raises
    ------
    FormatError
        If it is not there, or not of this form.
    """
    path = f"{group.store_path.store}/{name}".removeprefix("file://")
    try:
        array = group[name]
    except DAMAGE as error:
        raise FormatError(f"{path} is damaged or missing: {one_line(error)}") from error
    if not isinstance(array, zarr.Array) or array.ndim != ndim:
        raise FormatError(f"{path} is damaged: it is not an array of {ndim} axes")
    if str(array.dtype) not in kinds.split():
        raise FormatError(f"{path} is damaged: its dtype is {array.dtype}, not {kinds}")
    if array.shape[-1] < least:
        raise FormatError(f"{path} is damaged: it holds {array.shape[-1]} steps, not {least} steps")
    return array


def read(array: zarr.Array[Any], selection: tuple[slice | int, ...]) -> npt.NDArray[Any]:
    """Read part of an array.

    Raises
    ------
    FormatError
        If a chunk is missing, which Zarr itself would read as fill values, or does not decode.
    """
    _require_chunks(array, selection)
    try:
        return np.asarray(array[selection])
    except DAMAGE as error:
        raise FormatError(
            f"{array.store_path} is damaged, a chunk does not decode: {one_line(error)}"
        ) from error


def _require_chunks(array: zarr.Array[Any], selection: tuple[slice | int, ...]) -> None:
    store = array.store_path.store
    if not isinstance(store, LocalStore):
        return
    touched = []
    for part, length, width in zip(
        selection, array.shape, array.shards or array.chunks, strict=True
    ):
        first, stop, _ = (part if isinstance(part, slice) else slice(part, part + 1)).indices(
            length
        )
        touched.append(range(first // width, -(-stop // width) if stop > first else 0))
    for place in product(*touched):
        key = array.metadata.encode_chunk_key(place)
        file = store.root / array.path / key
        if not file.is_file():
            raise FormatError(f"{array.store_path} is damaged: chunk {key} is missing")


def one_line(error: BaseException) -> str:
    """Text of somebody else's exception, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
