"""A forecasting dataset on disk: its arrays, and what its header says.

A Zarr v3 group of uncompressed arrays of one chunk each. The chunk file is the plain array, so it
maps straight into NumPy and torch; any Zarr reader opens it too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from weightcast.store.errors import FormatError
from weightcast.store.layout import ATTRIBUTE
from weightcast.store.parameters import ParameterTable
from weightcast.store.recipe import Recipe

DATASET_VERSION = 3


@dataclass(frozen=True)
class Column:
    """One array of a dataset: its name, dtype, and width or None for one axis."""

    name: str
    dtype: str
    width: int | None = None

    def shape(self, samples: int) -> tuple[int, ...]:
        """Shape of the array for that many samples."""
        return (samples,) if self.width is None else (samples, self.width)


def columns(dtype: npt.DTypeLike, context: int, version: int = DATASET_VERSION) -> list[Column]:
    """Arrays of a dataset whose weights have the given dtype."""
    weight = np.dtype(dtype).name
    found = [
        Column("X", weight, context),
        Column("y", weight),
        Column("parameter", "int64"),
        Column("step", "int64"),
        Column("stratum", "int8"),
        Column("variation", weight),
    ]
    if version > 1:
        found += [Column("run", "int32"), Column("validation", "bool")]
    if version > 2:
        found += [Column("target", "int64"), Column("horizon", "int8")]
    return found


@dataclass(frozen=True)
class Origin:
    """A history that a dataset was drawn from, and what it gave.

    Attributes
    ----------
    path : str
        Where it was.
    recorded : int
        Rows of it that were used.
    digest : str
        SHA-256 of its parameter table and those steps.
    draws : int
        Steps t for each weight.
    candidates, wanted, samples, ties : tuple of int
        For each stratum: how many there were, how many samples it should give and gave, and how
        many candidates have exactly the variation at its lower end (0 for the last stratum);
        which of those are above that cut, their keys decide.
    table : int
        Which of the dataset's parameter tables is its own; of no meaning before format 3.
    """

    path: str
    recorded: int = 0
    digest: str = ""
    draws: int = 0
    candidates: tuple[int, ...] = ()
    wanted: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()
    ties: tuple[int, ...] = ()
    table: int = 0

    @classmethod
    def from_json(cls, document: Any, version: int = DATASET_VERSION) -> Origin:
        """Read it from a dataset's attributes.

        Raises
        ------
        LookupError, TypeError, ValueError
            If it is damaged.
        """
        names = ("candidates", "wanted", "samples", "ties")
        counts = {name: tuple(_whole(v) for v in document[name]) for name in names}
        return cls(
            path=_text(document["path"]),
            recorded=_whole(document["recorded"]),
            digest=_text(document["digest"]),
            draws=_whole(document["draws"]),
            table=_whole(document["table"]) if version > 2 else 0,
            **counts,
        )


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def chunk_file(path: Path, column: Column) -> Path:
    """The one chunk of an array of a dataset: Zarr v3's default chunk key."""
    return path / column.name / ("c/0" if column.width is None else "c/0/0")


def read_header(
    document: Any, recipe: Recipe, path: Path
) -> tuple[int, tuple[Origin, ...], tuple[ParameterTable, ...] | None]:
    """Number of samples, the histories, and their parameter tables: None before format 3."""
    version, tables = document["dataset_format"], None
    if version == 1:
        return recipe.samples, (Origin(str(document.get("source", ""))),), None
    try:
        samples = _whole(document["samples"])
        origins = tuple(Origin.from_json(o, version) for o in document["origins"])
        if not samples or not origins:
            raise ValueError("it has no samples or no history")
        _require_consistent(samples, origins, recipe)
        if version > 2:
            distinct = [ParameterTable.from_json(rows) for rows in document["tables"]]
            tables = tuple(distinct[origin.table] for origin in origins)
    except (LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is damaged: {error}") from error
    return samples, origins, tables


def _require_consistent(samples: int, origins: Sequence[Origin], recipe: Recipe) -> None:
    counts = [c for o in origins for c in (o.candidates, o.wanted, o.samples, o.ties)]
    if any(len(count) != len(recipe.shares) for count in counts):
        raise ValueError(f"each history must have {len(recipe.shares)} strata")
    for name, total, parts in (
        ("samples", samples, [o.samples for o in origins]),
        ("the samples of the recipe", recipe.samples, [o.wanted for o in origins]),
    ):
        if total != sum(map(sum, parts)):
            raise ValueError(f"{name}, {total}, must be the sum of {parts}")


def lay_out(
    path: Path,
    recipe: Recipe,
    dtype: npt.DTypeLike,
    samples: int,
    origins: Sequence[Origin],
    tables: Sequence[ParameterTable],
) -> None:
    """Create a dataset whose arrays are allocated and hold zeros."""
    group = zarr.create_group(path, zarr_format=3)
    for column in columns(dtype, len(recipe.context)):
        shape = column.shape(samples)
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
        "samples": samples,
        "origins": [asdict(origin) for origin in origins],
        "tables": [table.to_json() for table in tables],
    }
