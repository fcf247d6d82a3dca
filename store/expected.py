"""Which arrays and chunks a history must have, by its header."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import zarr

from weightcast.store.errors import FormatError
from weightcast.store.layout import Header, metric_path
from weightcast.store.parameters import ParameterTable
from weightcast.store.reading import open_array


@dataclass(frozen=True)
class Expected:
    """An array that a history must have.

    Parameters
    ----------
    name : str
        Path in the group.
    kinds : str
        dtypes it may have, separated by spaces.
    count : int
        Committed entries along its last axis.
    table : ParameterTable or None
        Of a wide array, what its rows are.
    """

    name: str
    kinds: str
    count: int
    table: ParameterTable | None = None

    def open(self, group: zarr.Group) -> zarr.Array[Any]:
        """Open the array, or raise FormatError if it is not there or of another form."""
        array = open_array(group, self.name, self.kinds, 2 if self.wide else 1, self.count)
        if self.table is not None and array.shape[0] != self.table.size:
            raise FormatError(
                f"{self.name} holds {array.shape[0]} rows, the table has {self.table.size} "
                "parameters"
            )
        return array

    @property
    def wide(self) -> bool:
        """Whether it has an axis of parameters, before that of the steps."""
        return self.table is not None

    def chunks(self, array: zarr.Array[Any]) -> int:
        """How many chunks hold committed entries."""
        return math.prod(map(len, self._cells(array)))

    def parts(self, array: zarr.Array[Any]) -> Iterator[Part]:
        """Every chunk of the array, as far as it is committed."""
        shape, files = self._shape(array), array.shards or array.chunks
        for place in product(*self._cells(array)):
            where = tuple(
                slice(i * c, min((i + 1) * c, n))
                for i, c, n in zip(place, array.chunks, shape, strict=True)
            )
            file = tuple(part.start // width for part, width in zip(where, files, strict=True))
            yield Part(self, array, where, array.metadata.encode_chunk_key(file))

    def _shape(self, array: zarr.Array[Any]) -> tuple[int, ...]:
        return (*array.shape[:-1], self.count)

    def _cells(self, array: zarr.Array[Any]) -> list[range]:
        shape = self._shape(array)
        return [range(-(-n // c)) for n, c in zip(shape, array.chunks, strict=True)]


class Part(NamedTuple):
    """The committed entries of one chunk; `key` is that of its file, which may be a shard."""

    expected: Expected
    array: zarr.Array[Any]
    where: tuple[slice, ...]
    key: str


def expected_arrays(header: Header) -> Iterator[Expected]:
    """All arrays of a history, the steps first.

    Examples
    --------
    >>> table = ParameterTable.of([("w", (2,), "float32", "weight")])
    >>> [e.name for e in expected_arrays(Header(table, metrics={"loss": 3}))]
    ['step', 'time', 'metrics/loss/step', 'metrics/loss/value', 'weights']
    """
    yield Expected("step", "int64", header.committed)
    yield Expected("time", "float64", header.committed)
    for name, count in header.metrics.items():
        yield Expected(f"{metric_path(name)}/step", "int64", count)
        yield Expected(f"{metric_path(name)}/value", "float64", count)
    for name in ("weights", *header.extras):
        yield Expected(name, "float32 float64", header.committed, header.parameters)
    if header.buffers.size:
        yield Expected("buffers", "float64", header.committed, header.buffers)
