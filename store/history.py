"""Reading a history: trajectories, snapshots, and what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr

from weightcast.store.errors import (
    FormatError,
    ShapeError,
    StepNotRecordedError,
    UsageError,
)
from weightcast.store.info import HistoryInfo, describe
from weightcast.store.layout import ATTRIBUTE, Header, metric_path
from weightcast.store.parameters import ParameterTable
from weightcast.store.reading import open_array, open_group, read
from weightcast.store.remote import Place, printed
from weightcast.store.ring import ring_path

Float = npt.NDArray[np.floating[Any]]


class History:
    """A recorded weight history, open for reading.

    What is committed when the history is opened is what it holds; a recording that goes on is seen
    by opening it again.

    Parameters
    ----------
    path : str, Path or zarr Store
        Folder of the history; or a URL that fsspec or obstore opens, such as
        ``s3://bucket/run.zarr``, or a store of Zarr's, to read from.
    storage_options : dict, optional
        For the library that opens a URL; without them it reads the environment.

    Attributes
    ----------
    path : Path or str
        Where it is; a str if that is not a local folder.
    arguments : tuple
        What opens it again, in another process too.
    parameters, buffers : ParameterTable
        What is recorded, in order; P is ``parameters.size``.
    steps : int64 array, shape (T,)
        The recorded optimizer steps, strictly increasing.
    weights : zarr.Array
        Raw array, float32 or float64, shape (P, at least T). Columns at and past T are not
        committed: prefer the methods.
    group : zarr.Group
        The raw group, read-only.
    wide : dict of str to zarr.Array
        All raw arrays of the same form, in the group's own names: ``weights``, ``buffers`` if there
        are any, and what else was recorded, such as ``gradients`` or ``optimizer/exp_avg``.

    Raises
    ------
    InputNotFoundError
        If nothing is there.
    FormatError
        If it is not a history, is damaged, or is of a newer format.
    RemoteError, MissingExtraError
        If a URL cannot be read, or the extra ``weightcast[remote]`` is not installed.

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

    def __init__(self, path: Place, *, storage_options: dict[str, Any] | None = None) -> None:
        self.path, self.arguments = printed(path), (path, storage_options)
        if isinstance(self.path, Path):
            _recover(self.path)
        self.group = open_group(path, storage_options=storage_options)
        self.header = Header.from_json(dict(self.group.attrs).get(ATTRIBUTE), self.path)
        self.parameters: ParameterTable = self.header.parameters
        self.buffers: ParameterTable = self.header.buffers
        self.weights = self._rows("weights", self.parameters, "float32 float64")
        self.wide = {"weights": self.weights}
        if self.buffers.size:
            self.wide["buffers"] = self._rows("buffers", self.buffers, "float64")
        for name in self.header.extras:
            self.wide[name] = self._rows(name, self.parameters, "float32 float64")
        self.steps = cast("npt.NDArray[np.int64]", self._column("step", "int64"))
        if np.any(np.diff(self.steps) <= 0):
            raise FormatError(f"{self.path} is damaged: its steps do not increase")

    def __reduce__(self) -> tuple[Any, ...]:
        """What a worker process needs to open it again."""
        return _reopened, self.arguments

    def __len__(self) -> int:
        """Recorded steps, T."""
        return len(self.steps)

    def __repr__(self) -> str:
        span = f", steps {self.steps[0]} to {self.steps[-1]}" if len(self) else ""
        return f"History({str(self.path)!r}: {self.parameters.size} weights x {len(self)}{span})"

    @property
    def folder(self) -> Path:
        """The local folder that it is in.

        Raises
        ------
        UsageError
            If it is remote.
        """
        if isinstance(self.path, Path):
            return self.path
        raise UsageError(f"this needs a history in a local folder: copy it there; got {self.path}")

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds since the recording began, float64, shape (T,)."""
        return cast("npt.NDArray[np.float64]", self._column("time", "float64"))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that were logged."""
        return sorted(self.header.metrics)

    def metric(self, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Steps and values of a logged metric, each of shape (entries,)."""
        if name not in self.header.metrics:
            raise UsageError(f"no metric {name!r} in {self.path}: there are {self.metrics}")
        count = self.header.metrics[name]
        steps, values = (
            read(
                open_array(self.group, f"{metric_path(name)}/{array}", dtype, ndim=1, least=count),
                (slice(0, count),),
            )
            for array, dtype in (("step", "int64"), ("value", "float64"))
        )
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

    def snapshot(self, step: int, array: str = "weights") -> Float:
        """All weights at one step, or another array in their order.

        Parameters
        ----------
        step : int
            A recorded step.
        array : str
            A name of `wide`: ``"gradients"`` gives those that led to this step.

        Returns
        -------
        float32 or float64 array, shape (P,)
            Of what is not the weights: NaN where there was none.
        """
        if array not in self.wide:
            raise UsageError(f"no array {array!r} in {self.path}: there are {list(self.wide)}")
        return cast("Float", read(self.wide[array], (slice(None), self.row(step))))

    def state(self, step: int) -> dict[str, Float]:
        """Parameters and buffers at one step, by name, each in its own shape.

        Values come in the history's dtype; cast to ``table[name].dtype`` to get the model's.
        """
        row = self.row(step)
        flat = [(self.parameters, self.snapshot(step))]
        if self.buffers.size:
            flat.append(
                (self.buffers, cast("Float", read(self.wide["buffers"], (slice(None), row))))
            )
        return {
            p.name: values[p.offset : p.stop].reshape(p.shape)
            for table, values in flat
            for p in table
        }

    def __getitem__(self, name: str) -> Float:
        """A parameter's whole history, shape (T, *shape)."""
        if not isinstance(name, str):
            raise UsageError(
                f"name a parameter, such as {next((p.name for p in self.parameters), '')!r}: "
                f"got {name!r}; a step is read with snapshot or state"
            )
        p = self.parameters[name]
        columns = read(self.weights, (slice(p.offset, p.stop), slice(0, len(self))))
        return cast("Float", columns.T.reshape(len(self), *p.shape))

    def require_unchanged(self) -> None:
        """Check that its local path still leads to what was opened.

        Raises
        ------
        FormatError
            If it was replaced, moved or deleted.
        """
        folder = getattr(self.group.store_path.store, "folder", None)
        if folder is not None:
            folder.require_unchanged()

    def info(self) -> HistoryInfo:
        """Sizes and facts, as plain data."""
        return describe(self)

    def _column(self, name: str, dtype: str) -> npt.NDArray[Any]:
        committed = self.header.committed
        array = open_array(self.group, name, dtype, ndim=1, least=committed)
        return read(array, (slice(0, committed),))

    def _rows(self, name: str, table: ParameterTable, kinds: str) -> zarr.Array[Any]:
        array = open_array(self.group, name, kinds, ndim=2, least=self.header.committed)
        if array.shape[0] != table.size:
            raise FormatError(
                f"{self.path} is damaged: {name} hold {array.shape[0]} rows, the table has "
                f"{table.size} parameters"
            )
        return array


def _reopened(path: Place, storage_options: dict[str, Any] | None) -> History:
    return History(path, storage_options=storage_options)


def _recover(path: Path) -> None:
    """Add to a history first what a recording that was killed left in its ring file."""
    if ring_path(path).exists():
        from weightcast.store.draining import recover_quietly  # it builds on this module

        recover_quietly(path)


def require_length(what: str, length: int, expected: int) -> None:
    """Check a length, with a message that gives both."""
    if length != expected:
        raise ShapeError(f"{what} must have {expected} entries, one a step: got {length}")
