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
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from weightcast.store.errors import FormatError, ShapeError, UsageError
from weightcast.store.history import History, open_group, require_length
from weightcast.store.layout import (
    ATTRIBUTE,
    PRESETS,
    SHORT_CHUNK,
    STEPS_PER_CHUNK,
    Header,
    check_metric_name,
    chunk_shape,
)
from weightcast.store.output import refuse_existing, retire
from weightcast.store.parameters import ParameterTable


class HistoryWriter:
    """A history, open for appending. Use `create` or `open`, as a context manager.

    Attributes
    ----------
    header : Header
        What is committed so far.
    last_step : int or None
        The last committed step.
    """

    def __init__(self, path: Path) -> None:
        history = History(path)
        self.path = path
        self.header = history.header
        self.last_step = int(history.steps[-1]) if len(history) else None
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
            If the preset is unknown.
        """
        if preset not in PRESETS:
            raise UsageError(f"preset must be one of {', '.join(PRESETS)}: got {preset!r}")
        path = refuse_existing(path, overwrite=overwrite)
        header = Header(
            parameters=parameters,
            buffers=buffers or ParameterTable(()),
            schedule=schedule,
            preset=preset,
            versions={"weightcast": importlib.metadata.version("weightcast"), **(versions or {})},
            metadata=metadata or {},
        )
        if path.exists():
            retire(path)
        _lay_out(path, header, np.dtype(dtype), block)
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
        steps = np.asarray(steps, dtype=np.int64)
        rows = {"weights": weights, "step": steps, "time": np.asarray(times, dtype=np.float64)}
        if self.header.buffers.size:
            rows["buffers"] = np.empty((0, 0)) if buffers is None else buffers
        self._check(rows)
        if not len(steps):
            return
        start = self.header.committed
        self._extend({name: values.T for name, values in rows.items()}, start)
        self.header.committed = start + len(steps)
        self._commit()
        self.last_step = int(steps[-1])

    def log(self, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
        """Append entries of a metric, such as a loss, and commit them.

        Parameters
        ----------
        name : str
            Letters, digits, ``_``, ``-`` and ``.``.
        steps, values : sequences of equal length
            The optimizer steps and the values.
        """
        require_length(f"values of metric {name!r}", len(values), len(steps))
        start = self.header.metrics.get(check_metric_name(name), 0)
        if not start and f"metrics/{name}" not in self._group:
            for array, dtype in (("step", np.int64), ("value", np.float64)):
                _short_array(self._group, f"metrics/{name}/{array}", np.dtype(dtype), "entry")
        columns = {
            f"metrics/{name}/step": np.asarray(steps, dtype=np.int64),
            f"metrics/{name}/value": np.asarray(values, dtype=np.float64),
        }
        self._extend(columns, start)
        self.header.metrics[name] = start + len(steps)
        self._commit()

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
            _with_shape(array, shapes[name])[..., start:] = columns[name]
        for name, array in arrays.items():
            array.resize(shapes[name])

    def _commit(self) -> None:
        self._group.attrs[ATTRIBUTE] = self.header.to_json()

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self._group[name]
        if not isinstance(array, zarr.Array):
            raise FormatError(f"{self.path} is damaged: {name!r} is not an array")
        return array


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
