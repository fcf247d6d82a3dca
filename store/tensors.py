"""What is known of the tensor that a weight is of: its scale, its shape, its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from weightcast.store.context import Context
from weightcast.store.errors import NonFiniteError
from weightcast.store.facts import TENSORS, tensor_facts
from weightcast.store.history import History
from weightcast.store.parameters import Kind, ParameterTable
from weightcast.store.reading import read

Int = npt.NDArray[np.int64]

SCALE_BLOCK = 1 << 20  # weights whose squares are summed at once, whatever the chunks


class TensorFacts:
    """What a context asks for of the tensors that weights are of.

    Parameters
    ----------
    table : ParameterTable
    context : Context
    scales : sequence of float
        As `first_scales` gives them; not looked at unless the context asks for the scale.
    """

    def __init__(self, table: ParameterTable, context: Context, scales: Sequence[float]) -> None:
        self._table = table
        scales = scales or [0.0] * len(table)
        filled = [(p, s) for p, s in zip(table, scales, strict=True) if p.size]
        self._starts = np.array([p.offset for p, _ in filled])
        facts = [tensor_facts(p.shape, scale) for p, scale in filled]
        asked = [name for name in TENSORS if name in context.facts]
        self._values = {name: np.array([f[name] for f in facts], float) for name in asked}

    def of(self, weights: Int) -> dict[str, npt.NDArray[np.float64]]:
        """Facts of some weights, each float64, shape (n,).

        Raises
        ------
        NonFiniteError
            If the scale of a tensor is not finite.
        """
        if not self._values:
            return {}
        tensor = np.searchsorted(self._starts, weights, side="right") - 1
        facts = {name: values[tensor] for name, values in self._values.items()}
        for name, values in facts.items():
            if not np.isfinite(values).all():
                bad = self._table.locate(int(weights[np.argmin(np.isfinite(values))]))
                raise NonFiniteError(
                    f"the {name} of a tensor must be finite: that of {bad} is not, at the first "
                    "step: leave the parameter out, or take a context without it"
                )
        return facts


def first_scales(history: History) -> tuple[float, ...]:
    """Root mean square of each tensor's weights at the first recorded step; 0 of an empty one.

    Notes
    -----
    Sums are in float64, over blocks that do not depend on the chunks, so that neither do they.
    """
    table, squares = history.parameters, np.zeros(len(history.parameters))
    with np.errstate(over="ignore", invalid="ignore"):
        for low in range(0, table.size, SCALE_BLOCK):
            high = min(low + SCALE_BLOCK, table.size)
            block = np.square(read(history.weights, (slice(low, high), 0)), dtype=np.float64)
            for i, p in enumerate(table):
                squares[i] += block[max(p.offset - low, 0) : max(p.stop - low, 0)].sum()
        sizes = np.array([max(p.size, 1) for p in table])
        return tuple(np.sqrt(squares / sizes).tolist())


def kinds_of(table: ParameterTable, weights: Int) -> npt.NDArray[np.str_]:
    """What the tensors of some weights are for, shape (n,).

    Examples
    --------
    >>> rows = [("w", (2,), "float32", "weight"), ("b", (1,), "float32", "bias")]
    >>> table = ParameterTable.of(rows)
    >>> kinds_of(table, np.array([1, 2])).tolist()
    ['weight', 'bias']
    """
    filled = [p for p in table if p.size]
    tensor = np.searchsorted([p.stop for p in filled], weights, side="right")
    kinds: Any = np.array([p.kind for p in filled], np.array(get_args(Kind)).dtype)
    found: npt.NDArray[np.str_] = kinds[tensor]
    return found
