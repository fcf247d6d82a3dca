"""The parameter table: which scalar of a history belongs to which tensor of the model.

::

    named_parameters():  conv.weight [8,1,5,5]   conv.bias [8]   fc.weight [10,128] ...
    flattened, C order:  |------- 200 ---------|------ 8 ------|------ 1280 -------|
    offset:              0                     200             208
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import numpy as np

from weightcast.store.errors import FormatError, ShapeError, UsageError

Kind = Literal["weight", "bias", "norm", "buffer"]
MOST_AXES = 63  # of a parameter; NumPy has one more, for the steps
MOST = 1 << 40  # scalars of a parameter


@dataclass(frozen=True)
class Parameter:
    """One tensor of the model, as a range of the flattened parameters.

    Parameters
    ----------
    name : str
        Qualified name, as in ``model.named_parameters()``. Never used as a path.
    shape : tuple of int
        Shape of the tensor; empty for a scalar.
    dtype : str
        The tensor's own dtype, such as ``"bfloat16"``; the history stores float32 or float64.
    offset : int
        Index of its first scalar along the history's parameter axis.
    kind : {"weight", "bias", "norm", "buffer"}
        What the tensor is for.

    Examples
    --------
    >>> Parameter("fc.weight", (10, 128), "float32", 208, "weight").size
    1280
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    kind: Kind

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """Index after its last scalar along the parameter axis."""
        return self.offset + self.size


class ParameterTable(Sequence[Parameter]):
    """The tensors of a model, in the order in which a history stores them.

    Parameters
    ----------
    parameters : iterable of Parameter
        With contiguous offsets, from 0, and unique names.

    Raises
    ------
    FormatError
        If names repeat or offsets leave a gap.

    Examples
    --------
    >>> rows = [("w", (2, 3), "float32", "weight"), ("b", (3,), "float32", "bias")]
    >>> table = ParameterTable.of(rows)
    >>> table.size, table["b"].offset
    (9, 6)
    >>> table.locate(7)
    'b[1]'
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self._parameters = tuple(parameters)
        self._by_name = {p.name: p for p in self._parameters}
        if len(self._by_name) != len(self._parameters):
            raise FormatError("parameter names must be unique: a name stands twice in the table")
        offset = 0
        for p in self._parameters:
            if p.offset != offset:
                raise FormatError(
                    f"parameter offsets must be contiguous: {p.name!r} starts at {p.offset}, "
                    f"not at {offset}"
                )
            offset = p.stop
        self.size: int = offset

    @classmethod
    def of(cls, rows: Iterable[tuple[str, tuple[int, ...], str, Kind]]) -> ParameterTable:
        """Build a table from (name, shape, dtype, kind) rows, giving out the offsets."""
        parameters, offset = [], 0
        for name, shape, dtype, kind in rows:
            parameters.append(Parameter(name, tuple(shape), dtype, offset, kind))
            offset = parameters[-1].stop
        return cls(parameters)

    @classmethod
    def from_json(cls, rows: Any) -> ParameterTable:
        """Read a table from a history's attributes.

        Raises
        ------
        FormatError
            If anything in it is not of the documented form; the file may come from anywhere.
        """
        try:
            return cls(_checked(row) for row in rows)
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"the parameter table is damaged: {error!r}") from error

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data, for a history's attributes."""
        return [asdict(p) | {"shape": list(p.shape)} for p in self._parameters]

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._parameters)

    def __getitem__(self, key: Any) -> Any:
        """A parameter by position or by name."""
        if not isinstance(key, str):
            return self._parameters[key]
        try:
            return self._by_name[key]
        except KeyError:
            some = ", ".join(list(self._by_name)[:5])
            raise UsageError(f"no parameter named {key!r}: there are {some}, ...") from None

    def __contains__(self, key: object) -> bool:
        return key in self._by_name or key in self._parameters

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterTable) and self._parameters == other._parameters

    def __hash__(self) -> int:
        return hash(self._parameters)

    def __repr__(self) -> str:
        return f"ParameterTable({len(self)} parameters, {self.size} scalars)"

    def locate(self, index: int) -> str:
        """Name a scalar by its index along the parameter axis, such as ``fc.weight[3,7]``."""
        for p in self._parameters:
            if p.offset <= index < p.stop:
                if not p.shape:
                    return p.name
                where = np.unravel_index(index - p.offset, p.shape)
                return f"{p.name}[{','.join(str(int(i)) for i in where)}]"
        raise UsageError(f"no scalar {index}: the table has {self.size}")

    def require_same(self, other: ParameterTable, this: str, that: str) -> None:
        """Check that two tables have the same names and shapes, in the same order.

        Raises
        ------
        ShapeError
            Naming the first difference; `this` and `that` say where the tables come from.
        """
        for mine, theirs in zip(self, other, strict=False):
            if (mine.name, mine.shape) != (theirs.name, theirs.shape):
                raise ShapeError(
                    f"{this} and {that} must hold the same parameters: {this} has {mine.name!r} "
                    f"{list(mine.shape)} where {that} has {theirs.name!r} {list(theirs.shape)}"
                )
        if len(self) != len(other):
            raise ShapeError(
                f"{this} and {that} must hold the same parameters: {this} has {len(self)}, "
                f"{that} has {len(other)}"
            )


def _checked(row: Any) -> Parameter:
    name, shape, dtype = row["name"], row["shape"], row["dtype"]
    offset, kind = row["offset"], row["kind"]
    sizes_ok = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    # NumPy must be able to hold it: an axis of 0 makes the product 0, and not the others small.
    sizes_ok = sizes_ok and len(shape) <= MOST_AXES and math.prod(n or 1 for n in shape) <= MOST
    if not (isinstance(name, str) and isinstance(dtype, str) and sizes_ok):
        raise FormatError(f"the parameter table is damaged: {row!r}")
    if type(offset) is not int or kind not in get_args(Kind):
        raise FormatError(f"the parameter table is damaged: {row!r}")
    return Parameter(name, tuple(shape), dtype, offset, kind)


def matches(
    name: str, include: str | Sequence[str] = (), exclude: str | Sequence[str] = ()
) -> bool:
    """Whether a parameter's name passes the include and exclude globs.

    Parameters
    ----------
    name : str
        Qualified parameter name.
    include : str or sequence of str
        Globs of which one at least must match; none given means all.
    exclude : str or sequence of str
        Globs of which none may match.

    Examples
    --------
    >>> matches("layers.0.bias", ["layers.*"], ["*.bias"])
    False
    """
    include, exclude = ([g] if isinstance(g, str) else g for g in (include, exclude))
    included = not include or any(fnmatchcase(name, glob) for glob in include)
    return included and not any(fnmatchcase(name, glob) for glob in exclude)
