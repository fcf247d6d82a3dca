"""Writing a history: whole blocks, data first, then the shape, then the commit.

::

    1. chunks of the new rows     a reader's arrays end before them
    2. shape of every array       a reader's ``committed`` still ends before them
    3. ``committed`` in zarr.json now they are there

Every file is replaced atomically, so that a writer killed between any two of these leaves a
history that opens with what was committed, and the next writer goes on from there.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr

from weightcast.store.arrays import fill, grow, lay_out, short_array
from weightcast.store.codecs import check_preset
from weightcast.store.errors import FormatError, RecordingError, ShapeError, UsageError
from weightcast.store.history import History, require_length
from weightcast.store.layout import (
    ATTRIBUTE,
    STEPS_PER_CHUNK,
    Header,
    check_extra,
    metric_path,
)
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.parameters import ParameterTable
from weightcast.store.reading import DAMAGE, one_line, open_array, open_group, require_chunks
from weightcast.store.remote import require_local
from weightcast.store.ring import in_use

Columns = tuple[int, npt.NDArray[Any]]  # where they start, and values [rows, n] or [n]
Entries = tuple[Sequence[int], Sequence[float]]  # steps and values of a metric


class HistoryWriter:
    """A history, open for appending. Use `create` or `open`, as a context manager.

    Attributes
    ----------
    header : Header
        What is committed so far.
    last_step : int or None
        The last committed step.
    block : int
        Steps in a chunk.
    """

    def __init__(self, path: Path) -> None:
        history = History(path)
        self.path = path
        self.header = history.header
        self.last_step = int(history.steps[-1]) if len(history) else None
        self.block: int = history.weights.chunks[1]
        self._group = open_group(path, mode="r+")

    @classmethod
    def create(
        cls,
        path: str | Path,
        parameters: ParameterTable,
        *,
        buffers: ParameterTable | None = None,
        dtype: npt.DTypeLike = np.float32,
        block: int = STEPS_PER_CHUNK,
        schedule: str = "",
        preset: str = "fast",
        error: float | None = None,
        versions: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
        extras: Sequence[str] = (),
        ties: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Begin a new history.

        Parameters
        ----------
        path : str or Path
            Folder to create.
        parameters, buffers : ParameterTable
            What each row of `append` holds.
        dtype : float32 or float64
            Of the weights; float64 only for models that have float64 parameters.
        block : int
            Steps in a chunk. Rows are best appended in multiples of it.
        schedule : str
            The schedule's text, kept for the reader.
        preset : {"fast", "compact", "bounded"}
            Codec preset; the first two are lossless. With ``bounded`` the weights are within
            `error` of what was appended, and everything else is exact.
        error : float
            Absolute error bound of the weights, for ``bounded``, which needs it.
        versions, metadata : dict
            Kept in the header; JSON-able.
        extras : sequence of str
            Further arrays in the shape of the weights: ``gradients``, ``optimizer/KEY``.
        ties : dict of str to str, optional
            Further names of tied tensors, each with the name that the tensor is stored under.
        overwrite : bool
            Replace a history that stands at `path`.

        Raises
        ------
        OutputExistsError
            If `path` is taken and `overwrite` is false, or it is not a history.
        UsageError
            If the preset is unknown or does not go with `error`, the dtype is another, `block` is
            less than 1, or `metadata` is not JSON-able.
        """
        kind = _check_options(preset, error, dtype, block, metadata, versions)
        path = refuse_existing(path, overwrite=overwrite, kind="history", locked=True)
        header = Header(
            parameters=parameters,
            buffers=buffers or ParameterTable(()),
            schedule=schedule,
            preset=preset,
            error=None if error is None else float(error),
            versions={"weightcast": importlib.metadata.version("weightcast"), **(versions or {})},
            metadata=metadata or {},
            extras=tuple(check_extra(name) for name in extras),
            ties=dict(ties or {}),
        )
        with replacing(path) as temporary:
            lay_out(temporary, header, kind, block)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Go on with a history after its last committed step.

        Raises
        ------
        RecordingError
            If a process is recording into it.
        """
        require_local(path)
        if in_use(Path(path)):
            raise RecordingError(f"{path} is being recorded by a process that runs: let it end")
        return cls(Path(path))

    def append(
        self,
        steps: Sequence[int] | npt.NDArray[np.int64],
        times: Sequence[float] | npt.NDArray[np.float64],
        weights: npt.NDArray[Any],
        buffers: npt.NDArray[Any] | None = None,
        extras: Mapping[str, npt.NDArray[Any]] | None = None,
        metrics: Mapping[str, Entries] | None = None,
        ring: tuple[str, int] | None = None,
    ) -> None:
        """Append rows, and entries of metrics, and commit them all at once.

        Parameters
        ----------
        steps : int array, shape (n,)
            Strictly increasing, after the last committed step.
        times : float array, shape (n,)
            Seconds since the recording began.
        weights : array, shape (n, P)
            One row a step; transposed here, so that trajectories lie together on disk.
        buffers : array, shape (n, B), optional
            Needed if the history has buffers.
        extras : dict of str to array, shape (n, P)
            Needed for each further array that the history has.
        metrics : dict of str to (steps, values), optional
            As for `log`.
        ring : (str, int), optional
            Name of the ring file that the entries come from, and how many of its entries the
            history holds with these: after a crash, none is written twice.

        Raises
        ------
        ShapeError
            If a shape is wrong.
        UsageError
            If the steps do not increase.
        """
        if np.asarray(steps).dtype.kind not in "iu" and len(steps):
            raise UsageError(f"steps must be whole numbers: got {steps!r}")
        steps = np.asarray(steps, dtype=np.int64)
        rows = {"weights": np.asarray(weights), "step": steps}
        rows["time"] = np.asarray(times, dtype=np.float64)
        if buffers is not None or self.header.buffers.size:
            none = np.empty((len(steps), 0))
            rows["buffers"] = none if buffers is None else np.asarray(buffers)
        rows.update({name: np.asarray(values) for name, values in (extras or {}).items()})
        self._check(rows)
        if not self.header.buffers.size:
            rows.pop("buffers", None)
        start = self.header.committed
        columns = {name: (start, values.T) for name, values in rows.items() if len(steps)}
        header = replace(self.header, committed=start + len(steps))
        if ring is not None:
            header.ring = ring
        self._write(columns, metrics or {}, header)
        if len(steps):
            self.last_step = int(steps[-1])

    def add_schedule(self, schedule: str, step: int) -> None:
        """Keep the schedule of a resumed recording beside the one before, if it is another."""
        if schedule != self.header.latest_schedule:
            both = f"{self.header.schedule}, from step {step} {schedule}"
            self._commit(replace(self.header, schedule=both))

    def log(self, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
        """Append entries of a metric, such as a loss, and commit them.

        Parameters
        ----------
        name : str
            Letters, digits, ``_``, ``-``, ``.`` and ``/``.
        steps, values : sequences of equal length
            The optimizer steps and the values.
        """
        self._write({}, {name: (steps, values)}, self.header)

    def close(self) -> None:
        """Nothing is pending between calls; here so that ``with`` reads well."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, rows: dict[str, npt.NDArray[Any]]) -> None:
        steps = rows["step"]
        count = len(steps)
        require_length("times", len(rows["time"]), count)
        wide = {"weights": self.header.parameters, "buffers": self.header.buffers}
        wide.update(dict.fromkeys(self.header.extras, self.header.parameters))
        if set(self.header.extras) != rows.keys() - {"weights", "buffers", "step", "time"}:
            raise ShapeError(
                f"further arrays must be {list(self.header.extras)}, as the history has them: got "
                f"{sorted(rows.keys() - {'weights', 'buffers', 'step', 'time'})}"
            )
        for name, table in wide.items():
            if name in rows and rows[name].shape != (count, table.size):
                raise ShapeError(
                    f"{name} must have shape {(count, table.size)}: got {rows[name].shape}"
                )
        before = -1 if self.last_step is None else self.last_step
        if count and (steps[0] <= before or np.any(np.diff(steps) <= 0)):
            raise UsageError(
                f"steps must increase, and start after {before}: got {steps[0]} to {steps[-1]}"
            )

    def _write(
        self, columns: dict[str, Columns], metrics: Mapping[str, Entries], header: Header
    ) -> None:
        """Write columns and entries, the data of all arrays before the shape of any; commit."""
        columns, counts = dict(columns), dict(header.metrics)
        for name, entries in metrics.items():
            columns.update(self._entries(name, *entries))
            counts[name] = counts.get(name, 0) + len(entries[0])
        arrays = {name: self._array(name, start) for name, (start, _) in columns.items()}
        shapes = {
            name: (*array.shape[:-1], columns[name][0] + columns[name][1].shape[-1])
            for name, array in arrays.items()
        }
        for name, array in arrays.items():
            try:
                fill(array, *columns[name])
            except DAMAGE as error:  # a half-full chunk is read before it is written again
                raise FormatError(
                    f"{self.path} is damaged, the last chunk of {name} does not decode: "
                    f"{one_line(error)}"
                ) from error
        for name, array in arrays.items():
            grow(array, shapes[name])
        self._commit(replace(header, metrics=counts))

    def _entries(
        self, name: str, steps: Sequence[int], values: Sequence[float]
    ) -> dict[str, Columns]:
        """The two columns of a metric, whose arrays are made with its first entries."""
        require_length(f"values of metric {name!r}", len(values), len(steps))
        folder, start = metric_path(name), self.header.metrics.get(name, 0)
        columns: dict[str, Columns] = {
            f"{folder}/step": (start, np.asarray(steps, dtype=np.int64)),
            f"{folder}/value": (start, np.asarray(values, dtype=np.float64)),
        }
        for path, (_, entries) in columns.items():
            if not (self.path / path / "zarr.json").exists():
                short_array(self._group, path, entries.dtype, "entry")
        return columns

    def _commit(self, header: Header) -> None:
        self._group.attrs[ATTRIBUTE] = header.to_json()
        self.header = header  # only now: a commit that failed must not count for the next one

    def _array(self, name: str, start: int) -> zarr.Array[Any]:
        """An array to write to from `start` on; the chunk that holds the entry before is there."""
        wide = name in ("weights", "buffers", *self.header.extras)
        array = open_array(self._group, name, "int64 float32 float64", 1 + wide, start)
        if start:
            # Zarr would read a missing one as fill values, and write those over what it held.
            require_chunks(array, (*[slice(None)] * wide, slice(start - 1, start)))
        return array


def _check_options(
    preset: str,
    error: float | None,
    dtype: npt.DTypeLike,
    block: int,
    metadata: dict[str, Any] | None,
    versions: dict[str, str] | None,
) -> np.dtype[Any]:
    check_preset(preset, error)
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if kind not in (np.float32, np.float64):
        raise UsageError(f"dtype must be float32 or float64: got {dtype!r}")
    if not isinstance(block, Integral) or block < 1:
        raise UsageError(f"block must be a whole number of steps from 1 on: got {block!r}")
    for name, kept in (("metadata", metadata), ("versions", versions)):
        try:
            json.dumps(dict(kept or {}))
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{name} must be a JSON-able dict: {one_line(error)}") from error
    return kind
