"""What a network sees of a weight: its context, scaled; and how its output becomes a forecast."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from weightcast.store import UsageError
from weightcast.store.columns import NOW, Fact, Past, Statistic
from weightcast.store.context import Context

Array = Any  # of NumPy or torch: only what both have is used

KINDS = ("fixed", "tensor", "weight")
TARGETS = ("value", "change")
_LEAST = 1e-30  # a unit below it counts as none: what is divided by it would not fit into float32


@dataclass(frozen=True)
class Scaling:
    """How the columns of a context are scaled for a model, and its output scaled back.

    The forecast is base + unit x output: the base is w(t) where the model learns the change, and
    else 0; the unit is what `kind` says. Past values, means, slopes and spreads are divided by the
    unit. Where the change is learned, past values and means go in as their distance from w(t), and
    w(t) itself as 0, so that small moves of large weights are not lost beside the weights. Facts
    go in as log2(1 + fact), and the scale of a tensor as log2(scale).

    Parameters
    ----------
    kind : {"fixed", "tensor", "weight"}
        The unit: 1 / `factor` for all weights; the scale of the weight's tensor (the column
        "scale"; 1 where it is 0); or the largest distance of the weight's own past values and means
        from w(t), slope or spread, so that each weight sees only the shape of its way. A weight
        that never moved stays where it is.
    factor : float
        The paper's 1000: weights move by thousandths.
    target : {"value", "change"}
        What the model learns: the later value, or how far it is from w(t).
    context : Context

    Raises
    ------
    UsageError
        If a kind or target is unknown, or the context lacks a column that it needs.

    Examples
    --------
    >>> scaling = Scaling("weight", 1000.0, "change", Context.of("1,0.5,0,ahead"))
    >>> seen = np.float32([[3.0], [2.0], [-1.0], [7.0]])  # of one weight
    >>> inputs, unit, base = scaling.apply(seen)
    >>> inputs.T, unit, base
    (array([[ 0.  , -0.25, -1.  ,  3.  ]], dtype=float32), array([4.], dtype=float32), \
array([3.], dtype=float32))
    """

    kind: str
    factor: float
    target: str
    context: Context

    def __post_init__(self) -> None:
        check_scaling(self.kind, self.factor, self.target)
        columns = self.context.columns
        advice = f"to its entries: got context {self.context}"
        if self.target == "change" and NOW not in columns:
            raise UsageError(f'target "change" needs the weight at t: add 1 {advice}')
        if self.kind == "tensor" and Fact("scale") not in columns:
            raise UsageError(
                'scaling "tensor" needs the column "scale": build the dataset with scale among its '
                f"--context entries: got context {self.context}"
            )
        if self.kind == "weight" and not self._moved:
            raise UsageError(f'scaling "weight" needs a past value besides w(t): add one {advice}')

    def apply(self, seen: Array) -> tuple[Array, Array | float, Array | float]:
        """Scale what is seen of some weights.

        Parameters
        ----------
        seen : float array of NumPy or torch, shape (F, n)

        Returns
        -------
        inputs : float array, shape (F, n)
            A new one.
        unit : float array, shape (n,), or float
            0 for a weight that never moved; in the weights' own units.
        base : float array, shape (n,), or float
        """
        of = torch if isinstance(seen, torch.Tensor) else np
        inputs = seen + 0
        base: Array = seen[self._now] if self.target == "change" else 0.0
        if self.target == "change":
            inputs[self._relative] -= base
        unit, divisor = self._unit(of, inputs)
        for place, column in enumerate(self.context.columns):
            if not isinstance(column, Fact):
                inputs[place] /= divisor
            elif column.name == "scale":
                inputs[place] = of.log2(_positive(of, inputs[place]))
            else:
                inputs[place] = of.log2(1 + inputs[place].clip(min=0))
        return inputs, unit, base

    def _unit(self, of: Any, inputs: Array) -> tuple[Array, Array]:
        """The unit, and what to divide by, which is never 0."""
        if self.kind == "fixed":
            return 1 / self.factor, 1 / self.factor
        if self.kind == "tensor":
            unit = _positive(of, inputs[self.context.columns.index(Fact("scale"))])
            return unit, unit
        moved = of.amax(of.abs(inputs[self._moved]), 0)
        return of.where(moved > _LEAST, moved, 0 * moved), _positive(of, moved)

    def scaled(self, y: Array, unit: Array | float, base: Array | float) -> Array:
        """What a model should put out for later values y: (y - base) / unit.

        Parameters
        ----------
        y : float array, shape (n,)
            In the weights' own units.
        unit, base : float arrays, shape (n,), or float
            From `apply`.

        Returns
        -------
        float array, shape (n,)
            Not scaled where the unit is 0: the output makes no difference there.
        """
        if isinstance(unit, Real):
            return (y - base) / unit
        return (y - base) / _positive(torch if isinstance(unit, torch.Tensor) else np, unit)

    @cached_property
    def matrix(self) -> npt.NDArray[np.float64] | None:
        """The inputs as `matrix` @ seen, shape (F, F); None where they are not linear in it."""
        if self.kind != "fixed" or self.context.facts:
            return None
        matrix = np.eye(len(self.context.columns))
        if self.target == "change":
            matrix[self._relative, self._now] -= 1
        return matrix * self.factor

    @property
    def _now(self) -> int:
        return self.context.columns.index(NOW)

    @cached_property
    def _relative(self) -> list[int]:
        """Columns that go in as their distance from w(t), where the change is learned."""
        return [
            place
            for place, column in enumerate(self.context.columns)
            if isinstance(column, Past) or (isinstance(column, Statistic) and column.kind == "mean")
        ]

    @cached_property
    def _moved(self) -> list[int]:
        """Columns that say how far a weight has moved; as `inputs` has them."""
        return [
            place
            for place, column in enumerate(self.context.columns)
            if not isinstance(column, Fact) and column != NOW
        ]


def check_scaling(kind: object, factor: object, target: object) -> None:
    """Check options that do not depend on the context: `UsageError` if one breaks its rule."""
    for name, value, known in (("scaling", kind, KINDS), ("target", target, TARGETS)):
        if value not in known:
            raise UsageError(f"{name} must be {' or '.join(known)}: got {value!r}")
    if not isinstance(factor, Real) or not 1e-30 <= float(factor) <= 1e30:  # what float32 can hold
        raise UsageError(f"scale must be a number from 1e-30 to 1e30: got {factor!r}")
    if kind == "weight" and target != "change":
        raise UsageError(
            f'scaling "weight" needs target "change": got target {target!r}: give --set '
            'target=change (target="change")'
        )


def _positive(of: Any, values: Array) -> Array:
    """The values, and 1 in place of those that cannot be divided by."""
    return of.where(values > _LEAST, values, 1 + 0 * values)
