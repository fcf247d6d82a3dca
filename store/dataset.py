"""A forecasting dataset on disk: inputs, targets and where each sample came from.

A Zarr v3 group of uncompressed arrays of one chunk each. The chunk file is the plain array, so it
maps straight into NumPy and torch; any Zarr reader opens it too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from weightcast.store.errors import FormatError, UsageError
from weightcast.store.history import History
from weightcast.store.keyed import words
from weightcast.store.layout import ATTRIBUTE
from weightcast.store.reading import open_group
from weightcast.store.recipe import Recipe
from weightcast.store.remote import Place, printed

DATASET_VERSION = 1
_SPLIT_STREAM = 1 << 62  # apart from the streams of the draws
_SPLIT_BLOCK = 1 << 20  # weights whose keys are drawn at once: 32 MB


@dataclass(frozen=True)
class Column:
    """One array of a dataset: its name, dtype, and width or None for one axis."""

    name: str
    dtype: str
    width: int | None = None

    def shape(self, samples: int) -> tuple[int, ...]:
        """Shape of the array for that many samples."""
        return (samples,) if self.width is None else (samples, self.width)


def columns(dtype: npt.DTypeLike, context: int) -> tuple[Column, ...]:
    """Arrays of a dataset whose weights have the given dtype."""
    weight = np.dtype(dtype).name
    return (
        Column("X", weight, context),
        Column("y", weight),
        Column("parameter", "int64"),
        Column("step", "int64"),
        Column("stratum", "int8"),
        Column("variation", weight),
    )


class Dataset:
    """A forecasting dataset, memory-mapped read-only.

    Parameters
    ----------
    path : str or Path
        Folder that `build_dataset` wrote.

    Attributes
    ----------
    X : float array, shape (N, F)
        Past values of one weight each: column f is its value at ``recipe.context[f]`` times t.
    y : float array, shape (N,)
        Its value at ``recipe.horizon`` times t.
    parameter, step : int64 arrays, shape (N,)
        Which weight of the history, and t. Rows are ordered by weight.
    stratum : int8 array, shape (N,)
        0 for the weights that changed most.
    variation : float array, shape (N,)
        |w(t) - w(0)|.
    recipe : Recipe
        How it was drawn.
    source : str
        The history it was drawn from.

    Raises
    ------
    InputNotFoundError, FormatError
        If it is not there, not a dataset, damaged, or of a newer format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        group = open_group(self.path)
        document = dict(group.attrs).get(ATTRIBUTE)
        if not isinstance(document, dict) or "recipe" not in document:
            raise FormatError(f"{path} is not a weightcast dataset: build one with 'dataset build'")
        version: Any = document.get("dataset_format")
        if version != DATASET_VERSION:
            raise FormatError(
                f"{path} has dataset format {version!r}, this weightcast reads {DATASET_VERSION}: "
                "upgrade weightcast or build the dataset again"
            )
        self.recipe = Recipe.from_json(document["recipe"], self.path)
        self.source = str(document.get("source", ""))
        self._dtype = str(document.get("dtype", "float32"))
        if self._dtype not in ("float32", "float64"):
            raise FormatError(f"{path} is damaged: dtype {self._dtype!r}")
        arrays = dict(self._map())
        self.X: npt.NDArray[Any] = arrays["X"]
        self.y: npt.NDArray[Any] = arrays["y"]
        self.parameter: npt.NDArray[np.int64] = arrays["parameter"]
        self.step: npt.NDArray[np.int64] = arrays["step"]
        self.stratum: npt.NDArray[np.int8] = arrays["stratum"]
        self.variation: npt.NDArray[Any] = arrays["variation"]

    def __len__(self) -> int:
        """Samples, N."""
        return self.recipe.samples

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}: {len(self)} samples of {len(self.recipe.context)} + 1)"

    def split(self, held_out: float, seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Split by weight, so that no weight is on both sides.

        Parameters
        ----------
        held_out : float
            Share of the weights to hold out, from 0 to 1, neither included.
        seed : int

        Returns
        -------
        rest, held : int64 arrays
            Rows of the dataset.
        """
        if not 0 < held_out < 1:
            raise UsageError(f"the share to hold out must be between 0 and 1: got {held_out}")
        held = np.empty(len(self), dtype=bool)
        last = int(self.parameter[-1]) + 1
        for low in range(0, last, _SPLIT_BLOCK):
            high = min(low + _SPLIT_BLOCK, last)
            key = words(seed, _SPLIT_STREAM, low, high)[:, 0].astype(np.float64) / 2.0**64
            a, b = np.searchsorted(self.parameter, (low, high))
            held[a:b] = key[self.parameter[a:b] - low] < held_out
        return np.flatnonzero(~held), np.flatnonzero(held)

    def _map(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for column in columns(self._dtype, len(self.recipe.context)):
            file, shape = chunk_file(self.path, column), column.shape(self.recipe.samples)
            needed = math.prod(shape) * np.dtype(column.dtype).itemsize
            if not file.is_file() or file.stat().st_size != needed:
                raise FormatError(
                    f"{self.path} is damaged: array {column.name!r} is not {needed} bytes"
                )
            yield column.name, np.memmap(file, dtype=column.dtype, mode="r", shape=shape)


def chunk_file(path: Path, column: Column) -> Path:
    """The one chunk of an array of a dataset: Zarr v3's default chunk key."""
    return path / column.name / ("c/0" if column.width is None else "c/0/0")


def lay_out(path: Path, recipe: Recipe, dtype: npt.DTypeLike, source: str) -> None:
    """Create a dataset whose arrays are allocated and hold zeros."""
    group = zarr.create_group(path, zarr_format=3)
    for column in columns(dtype, len(recipe.context)):
        shape = column.shape(recipe.samples)
        group.create_array(
            column.name,
            shape=shape,
            chunks=shape,
            dtype=column.dtype,
            compressors=None,
            fill_value=0,
            dimension_names=("sample", "context")[: len(shape)],
        )
        file = chunk_file(path, column)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            # A hole that a mapped write cannot fill, on a full disk, would kill the process.
            size = math.prod(shape) * np.dtype(column.dtype).itemsize
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, size)
            else:  # macOS
                opened.truncate(size)
    group.attrs[ATTRIBUTE] = {
        "dataset_format": DATASET_VERSION,
        "recipe": recipe.to_json(),
        "dtype": np.dtype(dtype).name,
        "source": source,
    }


def open_stored(path: Place) -> History | Dataset:
    """Open whichever of the two stands at a path, or the history at a URL, by what its header says.

    Raises
    ------
    InputNotFoundError, FormatError
        If it is neither.
    UsageError
        If it is a dataset that is not in a local folder.
    """
    document = dict(open_group(path).attrs).get(ATTRIBUTE)
    if not isinstance(document, dict) or "recipe" not in document:
        return History(path)
    local = printed(path)
    if not isinstance(local, Path):
        raise UsageError(f"a dataset is memory-mapped: copy it to a local folder first; got {path}")
    return Dataset(local)
