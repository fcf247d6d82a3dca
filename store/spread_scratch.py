"""Scratch files of the two measures: 16 bytes a float32 weight while a job runs."""

from __future__ import annotations

import os
import secrets
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import SchedulerError
from weightcast.store.parameters import Parameter, ParameterTable
from weightcast.store.spread import Measure, WeightVariation
from weightcast.store.swapping import remove, remove_stale, sibling

Float = npt.NDArray[np.floating[Any]]
Int = npt.NDArray[np.int64]


@contextmanager
def scratch_folder(output: str | Path | None) -> Iterator[Path]:
    """A folder for scratch files, beside the output if there is one: there is room for it.

    Its path is absolute, for workers have working directories of their own, and new in each job: a
    worker that was cut off from an earlier one finds nothing to write to.
    """
    if output is None:
        with tempfile.TemporaryDirectory(
            prefix="weightcast-", ignore_cleanup_errors=True
        ) as temporary:
            yield Path(temporary).absolute()
        return
    beside = Path(output).absolute().with_suffix(".scratch")
    beside.parent.mkdir(parents=True, exist_ok=True)
    path = sibling(beside, "partial")
    remove(path)
    remove_stale(beside, path)
    folder = path / secrets.token_hex(8)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        with suppress(OSError):  # a late worker may still have a file open
            remove(path)


@dataclass(frozen=True)
class Measured:
    """The two measures of every selected weight, in scratch files; NaN where not finite.

    Attributes
    ----------
    folder : Path
    dtype : str
    table : ParameterTable
        The selected tensors, one after the other, as in the files.
    origins : tuple of int
        Where each begins in the history.
    """

    folder: Path
    dtype: str
    table: ParameterTable
    origins: tuple[int, ...]

    def allocate(self) -> None:
        """Make the files, so that tasks can write anywhere into them.

        Raises
        ------
        OSError
            If there is no room, saying how much it takes and where.
        """
        size = self.table.size * np.dtype(self.dtype).itemsize
        files = [self._file(m, in_order) for m in get_args(Measure) for in_order in (False, True)]
        try:
            for path in files:
                with path.open("wb") as file:
                    if hasattr(os, "posix_fallocate"):  # so that a full disk is known at once
                        os.posix_fallocate(file.fileno(), 0, size)
                    else:  # macOS
                        file.truncate(size)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: the scratch files take {len(files) * size / 1e9:,.3g} GB, "
                "beside the output or, without one, in the folder that TMPDIR names",
                str(self.folder),
            ) from error

    def put(
        self, measure: Measure, parts: Sequence[tuple[int, Float]], *, in_order: bool = False
    ) -> None:
        """Write values at places; not through a memory map, which a full disk would crash.

        Raises
        ------
        SchedulerError
            If a worker elsewhere does not see the folder.
        """
        try:
            with self._file(measure, in_order).open("r+b") as file:
                for place, values in parts:
                    file.seek(place * values.itemsize)
                    file.write(values.data)
        except FileNotFoundError as error:
            raise SchedulerError(
                f"the workers must share the folder of the scratch files: {self.folder} is not "
                "there on one of them: choose an output, beside which they are, on a disk that all "
                "workers have"
            ) from error

    def values(self, measure: Measure, start: int, stop: int) -> Float:
        """A range of the values, read into memory."""
        offset = start * np.dtype(self.dtype).itemsize
        file = self._file(measure, in_order=False)
        return np.fromfile(file, self.dtype, count=stop - start, offset=offset)

    def mapped(self, measure: Measure, *, in_order: bool = False) -> Float:
        """All values, memory-mapped."""
        return np.memmap(self._file(measure, in_order), self.dtype, mode="r")

    def tensors_between(self, start: int, stop: int) -> range:
        """Which tensors have weights in a range of places."""
        first, last = (bisect_right(self.table, p, key=_stop) for p in (start, stop - 1))
        return range(first, last + 1)

    def tensors_of(self, places: Int) -> Int:
        """Which tensor holds the weight at each place."""
        stops = np.array([p.stop for p in self.table])
        return np.searchsorted(stops, places, side="right")

    def describe(self, places: Int) -> tuple[WeightVariation, ...]:
        """Name the weights at these places, and say how far each moved."""
        tensors = self.tensors_of(places)
        change, deviation = (self.mapped(m)[places].tolist() for m in get_args(Measure))
        return tuple(
            WeightVariation(
                p.name,
                tuple(int(i) for i in np.unravel_index(place - p.offset, p.shape)),
                self.origins[tensor] + place - p.offset,
                *moved,
            )
            for place, tensor, *moved in zip(
                places.tolist(), tensors.tolist(), change, deviation, strict=True
            )
            for p in [self.table[tensor]]
        )

    def _file(self, measure: Measure, in_order: bool) -> Path:
        return self.folder / (f"{measure}.sorted" if in_order else measure)


def _stop(parameter: Parameter) -> int:
    return parameter.stop
