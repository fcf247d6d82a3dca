"""Reading a history: trajectories, snapshots, and what it says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.errors import BaseZarrError

from weightcast.store.errors import (
    FormatError,
    InputNotFoundError,
    ShapeError,
    StepNotRecordedError,
    UsageError,
)
from weightcast.store.layout import ATTRIBUTE, Header
from weightcast.store.parameters import ParameterTable

Float = npt.NDArray[np.floating[Any]]


class History:
    """A recorded weight history, open for reading.

    What is committed when the history is opened is what it holds; a recording that goes on is seen
    by opening it again.

    Parameters
    ----------
    path : str or Path
        Folder of the history.

    Attributes
    ----------
    parameters, buffers : ParameterTable
        What is recorded, in order; P is ``parameters.size``.
    steps : int64 array, shape (T,)
        The recorded optimizer steps, strictly increasing.
    weights : zarr.Array
        Raw array, float32 or float64, shape (P, at least T). Columns at and past T are not
        committed: prefer the methods.

    Raises
    ------
    InputNotFoundError
        If nothing is there.
    FormatError
        If it is not a history, is damaged, or is of a newer format.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("fc.weight", (1, 2), "float32", "weight")])
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with HistoryWriter.create(path, table) as writer:
    ...     writer.append([0, 10], [0.0, 0.5], np.float32([[1, 2], [3, 4]]))
    >>> history = History(path)
    >>> history.steps
    array([ 0, 10])
    >>> history["fc.weight"].shape  # [T, *shape]
    (2, 1, 2)
    >>> history.snapshot(10)
    array([3., 4.], dtype=float32)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._group = open_group(self.path)
        self.header = Header.from_json(dict(self._group.attrs).get(ATTRIBUTE), self.path)
        self.parameters: ParameterTable = self.header.parameters
        self.buffers: ParameterTable = self.header.buffers
        self.weights = self._array("weights", ndim=2)
        committed = self.header.committed
        if self.weights.dtype not in (np.float32, np.float64):
            raise FormatError(f"{self.path} is damaged: weights are {self.weights.dtype}, not floats")
        if self.weights.shape[0] != self.parameters.size or self.weights.shape[1] < committed:
            raise FormatError(
                f"{self.path} is damaged: weights {self.weights.shape} do not hold "
                f"{self.parameters.size} parameters x {committed} steps"
            )
        self.steps = cast("npt.NDArray[np.int64]", self._column("step"))
        if np.any(np.diff(self.steps) <= 0):
            raise FormatError(f"{self.path} is damaged: its steps do not increase")

    def __len__(self) -> int:
        """Recorded steps, T."""
        return len(self.steps)

    def __repr__(self) -> str:
        span = f", steps {self.steps[0]} to {self.steps[-1]}" if len(self) else ""
        return f"History({str(self.path)!r}: {self.parameters.size} weights x {len(self)}{span})"

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds since the recording began, float64, shape (T,)."""
        return cast("npt.NDArray[np.float64]", self._column("time"))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that were logged."""
        return sorted(self.header.metrics)

    def metric(self, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Steps and values of a logged metric, each of shape (entries,)."""
        if name not in self.header.metrics:
            raise UsageError(f"no metric {name!r} in {self.path}: there are {self.metrics}")
        count = self.header.metrics[name]
        steps = read(self._array(f"metrics/{name}/step", ndim=1), slice(0, count))
        values = read(self._array(f"metrics/{name}/value", ndim=1), slice(0, count))
        return cast("npt.NDArray[np.int64]", steps), cast("npt.NDArray[np.float64]", values)

    def row(self, step: int) -> int:
        """Row of a recorded step.

        Raises
        ------
        StepNotRecordedError
            Naming the recorded steps on both sides of it.
        """
        row = int(np.searchsorted(self.steps, step))
        if row < len(self) and self.steps[row] == step:
            return row
        near = [str(s) for s in self.steps[max(row - 1, 0) : row + 1]]
        raise StepNotRecordedError(
            f"step {step} is not recorded in {self.path}: "
            + (f"the nearest are {' and '.join(near)}" if near else "it has no steps yet")
        )

    def snapshot(self, step: int) -> Float:
        """All weights at one step.

        Returns
        -------
        float32 or float64 array, shape (P,)
        """
        return cast("Float", read(self.weights, (slice(None), self.row(step))))

    def state(self, step: int) -> dict[str, Float]:
        """Parameters and buffers at one step, by name, each in its own shape.

        Values come in the history's dtype; cast to ``table[name].dtype`` to get the model's.
        """
        row = self.row(step)
        flat = [(self.parameters, self.snapshot(step))]
        if self.buffers.size:
            array = self._array("buffers", ndim=2)
            flat.append((self.buffers, cast("Float", read(array, (slice(None), row)))))
        return {
            p.name: values[p.offset : p.stop].reshape(p.shape)
            for table, values in flat
            for p in table
        }

    def __getitem__(self, name: str) -> Float:
        """A parameter's whole history, shape (T, *shape)."""
        p = self.parameters[name]
        columns = read(self.weights, (slice(p.offset, p.stop), slice(0, len(self))))
        return cast("Float", columns.T.reshape(len(self), *p.shape))

    def info(self) -> HistoryInfo:
        """Sizes and facts, as plain data."""
        itemsize = np.dtype(self.weights.dtype).itemsize
        return HistoryInfo(
            path=str(self.path),
            parameters=[(p.name, p.shape, p.dtype, p.kind) for p in self.parameters],
            weights=self.parameters.size,
            recorded=len(self),
            first_step=int(self.steps[0]) if len(self) else None,
            last_step=int(self.steps[-1]) if len(self) else None,
            schedule=self.header.schedule,
            preset=self.header.preset,
            chunks=cast("tuple[int, int]", self.weights.chunks),
            raw_bytes=self.parameters.size * len(self) * itemsize,
            stored_bytes=sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file()),
            metrics=self.metrics,
            versions=self.header.versions,
            metadata=self.header.metadata,
        )

    def _array(self, name: str, ndim: int) -> zarr.Array[Any]:
        try:
            array = self._group[name]
        except (KeyError, ValueError, TypeError) as error:
            raise FormatError(f"{self.path} is damaged: array {name!r} cannot be opened") from error
        if not isinstance(array, zarr.Array) or array.ndim != ndim:
            raise FormatError(f"{self.path} is damaged: {name!r} is not an array of {ndim} axes")
        return array

    def _column(self, name: str) -> npt.NDArray[Any]:
        array, committed = self._array(name, ndim=1), self.header.committed
        if array.shape[0] < committed:
            raise FormatError(
                f"{self.path} is damaged: {array.shape[0]} entries in {name!r}, not {committed}"
            )
        return read(array, slice(0, committed))


@dataclass(frozen=True)
class HistoryInfo:
    """What `History.info` reports; sizes in bytes, `ratio` is raw over stored."""

    path: str
    parameters: list[tuple[str, tuple[int, ...], str, str]]
    weights: int
    recorded: int
    first_step: int | None
    last_step: int | None
    schedule: str
    preset: str
    chunks: tuple[int, int]
    raw_bytes: int
    stored_bytes: int
    metrics: list[str]
    versions: dict[str, str]
    metadata: dict[str, Any]

    @property
    def ratio(self) -> float:
        """How many times smaller the folder is than the plain numbers."""
        return self.raw_bytes / max(self.stored_bytes, 1)


def open_group(path: Path, mode: Any = "r") -> zarr.Group:
    """Open a Zarr v3 group, with our errors.

    Raises
    ------
    InputNotFoundError, FormatError
        If nothing is there, or no Zarr v3 group.
    """
    if not path.exists():
        raise InputNotFoundError(f"{path} does not exist: give the folder of a Zarr group")
    try:
        return zarr.open_group(path, mode=mode, zarr_format=3, use_consolidated=False)
    except (BaseZarrError, ValueError, KeyError, TypeError, NotADirectoryError) as error:
        raise FormatError(f"{path} is not a Zarr v3 group: {one_line(error)}") from error


def read(array: zarr.Array[Any], selection: Any) -> npt.NDArray[Any]:
    """Read part of an array; a damaged chunk is a `FormatError` that names the array."""
    try:
        return np.asarray(array[selection])
    except (ValueError, RuntimeError, TypeError, json.JSONDecodeError) as error:
        raise FormatError(
            f"{array.store_path} is damaged, a chunk does not decode: {one_line(error)}"
        ) from error


def one_line(error: BaseException) -> str:
    """Text of somebody else's exception, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def require_length(what: str, length: int, expected: int) -> None:
    """Check a length, with a message that gives both."""
    if length != expected:
        raise ShapeError(f"{what} must have {expected} entries, one a step: got {length}")
