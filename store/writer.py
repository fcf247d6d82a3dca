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
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from weightcast.store.errors import FormatError, ShapeError, UsageError
from weightcast.store.history import History, require_length
from weightcast.store.layout import (
    ATTRIBUTE,
    PRESETS,
    SHORT_CHUNK,
    STEPS_PER_CHUNK,
    Header,
    check_preset,
    chunk_shape,
    metric_path,
)
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.parameters import ParameterTable
from weightcast.store.reading import DAMAGE, one_line, open_group


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
        versions: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
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
        preset : {"fast", "compact"}
            Codec preset; both are lossless.
        versions, metadata : dict
            Kept in the header; JSON-able.
        overwrite : bool
            Replace a history that stands at `path`.

        Raises
        ------
        OutputExistsError
            If `path` is taken and `overwrite` is false, or it is not a history.
        UsageError
            If the preset is unknown, the dtype is another, `block` is less than 1, or `metadata`
            is not JSON-able.
        """
        kind = _check_options(preset, dtype, block, metadata, versions)
        path = refuse_existing(path, overwrite=overwrite, kind="history")
        header = Header(
            parameters=parameters,
            buffers=buffers or ParameterTable(()),
            schedule=schedule,
            preset=preset,
            versions={"weightcast": importlib.metadata.version("weightcast"), **(versions or {})},
            metadata=metadata or {},
        )
        with replacing(path) as temporary:
            _lay_out(temporary, header, kind, block)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Go on with a history after its last committed step."""
        return cls(Path(path))

    def append(
        self,
        steps: Sequence[int] | npt.NDArray[np.int64],
        times: Sequence[float] | npt.NDArray[np.float64],
        weights: npt.NDArray[Any],
        buffers: npt.NDArray[Any] | None = None,
    ) -> None:
        """Append rows and commit them.

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
        self._check(rows)
        if not self.header.buffers.size:
            rows.pop("buffers", None)
        if not len(steps):
            return
        start = self.header.committed
        self._extend({name: values.T for name, values in rows.items()}, start)
        self._commit(replace(self.header, committed=start + len(steps)))
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
        require_length(f"values of metric {name!r}", len(values), len(steps))
        start = self.header.metrics.get(name, 0)
        folder = metric_path(name)
        for array, dtype in (("step", np.int64), ("value", np.float64)):
            if f"{folder}/{array}" not in self._group:
                _short_array(self._group, f"{folder}/{array}", np.dtype(dtype), "entry")
        columns = {
            f"{folder}/step": np.asarray(steps, dtype=np.int64),
            f"{folder}/value": np.asarray(values, dtype=np.float64),
        }
        self._extend(columns, start)
        counts = {**self.header.metrics, name: start + len(steps)}
        self._commit(replace(self.header, metrics=counts))

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
        for name, table in (("weights", self.header.parameters), ("buffers", self.header.buffers)):
            if name in rows and rows[name].shape != (count, table.size):
                raise ShapeError(
                    f"{name} must have shape {(count, table.size)}: got {rows[name].shape}"
                )
        before = -1 if self.last_step is None else self.last_step
        if count and (steps[0] <= before or np.any(np.diff(steps) <= 0)):
            raise UsageError(
                f"steps must increase, and start after {before}: got {steps[0]} to {steps[-1]}"
            )

    def _extend(self, columns: dict[str, npt.NDArray[Any]], start: int) -> None:
        """Write columns from `start` on, the data of all arrays before the shape of any."""
        arrays = {name: self._array(name) for name in columns}
        shapes = {
            name: (*array.shape[:-1], start + columns[name].shape[-1])
            for name, array in arrays.items()
        }
        for name, array in arrays.items():
            try:
                _with_shape(array, shapes[name])[..., start:] = columns[name]
            except DAMAGE as error:  # a half-full chunk is read before it is written again
                raise FormatError(
                    f"{self.path} is damaged, the last chunk of {name} does not decode: "
                    f"{one_line(error)}"
                ) from error
        for name, array in arrays.items():
            array.resize(shapes[name])

    def _commit(self, header: Header) -> None:
        self._group.attrs[ATTRIBUTE] = header.to_json()
        self.header = header  # only now: a commit that failed must not count for the next one

    def _array(self, name: str) -> zarr.Array[Any]:
        try:
            array = self._group[name]
        except DAMAGE as error:
            raise FormatError(f"{self.path} is damaged: no array {name!r}") from error
        if not isinstance(array, zarr.Array):
            raise FormatError(f"{self.path} is damaged: {name!r} is not an array")
        return array


def _check_options(
    preset: str,
    dtype: npt.DTypeLike,
    block: int,
    metadata: dict[str, Any] | None,
    versions: dict[str, str] | None,
) -> np.dtype[Any]:
    check_preset(preset)
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


def _lay_out(path: Path, header: Header, dtype: np.dtype[Any], block: int) -> None:
    """Create the empty arrays, and the header last: without it the folder is no history."""
    group = zarr.create_group(path, zarr_format=3)
    wide = [("weights", header.parameters, dtype, "parameter")]
    if header.buffers.size:
        wide.append(("buffers", header.buffers, np.dtype(np.float64), "buffer"))
    for name, table, kind, axis in wide:
        group.create_array(
            name,
            shape=(table.size, 0),
            chunks=chunk_shape(table.size, block),
            dtype=kind,
            compressors=[BloscCodec(**PRESETS[header.preset]), Crc32cCodec()],
            fill_value=float("nan"),
            dimension_names=(axis, "step"),
        )
    _short_array(group, "step", np.dtype(np.int64), "step")
    _short_array(group, "time", np.dtype(np.float64), "step")
    group.attrs[ATTRIBUTE] = header.to_json()


def _short_array(group: zarr.Group, name: str, dtype: np.dtype[Any], axis: str) -> None:
    group.create_array(
        name,
        shape=(0,),
        chunks=(SHORT_CHUNK,),
        dtype=dtype,
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()],
        fill_value=float("nan") if dtype.kind == "f" else 0,
        dimension_names=(axis,),
    )


def _with_shape(array: zarr.Array[Any], shape: tuple[int, ...]) -> zarr.Array[Any]:
    """The same array as if it had another shape; nothing on disk changes."""
    now = array.async_array
    metadata: Any = now.metadata
    grown = zarr.Array(type(now)(metadata.update_shape(shape), store_path=now.store_path))
    # Write chunks of nothing but the fill value too: then a chunk that is missing is damage.
    return grown.with_config({"write_empty_chunks": True})
