"""Mean errors of groups of forecasts, from sums that grow block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.floating[Any]]
RIVALS = ("forecaster", "last_value", "linear_fit")


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors of a group of forecasts, in the weights' own units.

    Attributes
    ----------
    group : str
        What the group is, such as ``t = 500``.
    count : int
        Forecasts in it.
    forecaster, last_value, linear_fit : float, or None for the last two
        Mean |forecast - truth| of the forecaster, and of the two that it must beat. None where the
        samples do not hold what the other needs.
    by : str
        What it is a group of: ``stratum``, ``kind`` (of parameter), ``t``, ``horizon`` or ``all``.

    Examples
    --------
    >>> Errors("all", 10, forecaster=0.003, last_value=0.004, linear_fit=0.005).skill
    0.25
    """

    group: str
    count: int
    forecaster: float
    last_value: float | None
    linear_fit: float | None
    by: str = "all"

    @property
    def skill(self) -> float:
        """1 - error / last-value error: 1 is perfect, 0 is no better than doing nothing."""
        return 1 - self.forecaster / self.last_value if self.last_value else math.nan

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not known, or not finite, is None."""
        means = {name: known(getattr(self, name)) for name in (*RIVALS, "skill")}
        return asdict(self) | means


def known(value: float | None) -> float | None:
    """A number as JSON has it: None if it is not finite."""
    return value if value is not None and math.isfinite(value) else None


class Tally:
    """Sums of absolute errors of the groups of several groupings.

    Every error is added to its group's float64 sum in turn, so that the means do not depend on how
    forecasts are cut into blocks.

    Parameters
    ----------
    groups : mapping of str to sequence of str
        For each grouping, the names of its groups.

    Examples
    --------
    >>> tally = Tally({"kind": ["weight", "bias"]})
    >>> tally.add([np.ones(3), None, None], {"kind": np.array([0, 0, 1])})
    >>> [(e.by, e.group, e.count, e.forecaster) for e in tally.errors()]
    [('kind', 'weight', 2, 1.0), ('kind', 'bias', 1, 1.0), ('all', 'all', 3, 1.0)]
    """

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        self._groups = {**groups, "all": ["all"]}
        self._sums = {by: np.zeros((len(RIVALS), len(g))) for by, g in self._groups.items()}
        self._counts = {by: np.zeros(len(g), np.int64) for by, g in self._groups.items()}
        self._known = [True] * len(RIVALS)

    def add(
        self, errors: Sequence[Float | None], members: Mapping[str, npt.NDArray[np.integer[Any]]]
    ) -> None:
        """Count the errors of n forecasts.

        Parameters
        ----------
        errors : sequence of 3 float arrays, shape (n,), or None
            Absolute errors of the forecaster, the last value and the linear fit; None for one that
            cannot say.
        members : mapping of str to int array, shape (n,)
            For each grouping, the group of each forecast.
        """
        count = next(len(e) for e in errors if e is not None)
        everything = np.zeros(count, np.int64)
        for by, sums in self._sums.items():
            places = members[by] if by != "all" else everything
            self._counts[by] += np.bincount(places, minlength=sums.shape[1])
            for total, values in zip(sums, errors, strict=True):
                if values is not None:
                    np.add.at(total, places, values.astype(np.float64))
        self._known = [k and e is not None for k, e in zip(self._known, errors, strict=True)]

    def errors(self) -> list[Errors]:
        """Errors of every group that has forecasts, the grouping ``all`` last."""
        return [
            Errors(name, int(self._counts[by][i]), by=by, **self._means(by, i))
            for by, names in self._groups.items()
            for i, name in enumerate(names)
            if self._counts[by][i]
        ]

    def _means(self, by: str, group: int) -> dict[str, Any]:
        means = self._sums[by][:, group] / self._counts[by][group]
        named = zip(RIVALS, means, self._known, strict=True)
        return {name: float(mean) if is_known else None for name, mean, is_known in named}


def overall(groups: Sequence[Errors]) -> Errors:
    """Errors of all forecasts of several groups together."""
    total = sum(g.count for g in groups)

    def mean(name: str) -> Any:
        values = [(getattr(g, name), g.count) for g in groups]
        if any(value is None for value, _ in values):
            return None
        return sum(value * count for value, count in values) / max(total, 1)

    return Errors("all", total, *map(mean, RIVALS))
