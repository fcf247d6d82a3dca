"""Forecasters that need no training: what every learned one is measured against."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.rows import Combination
from weightcast.store import UsageError
from weightcast.store.columns import NOW, Entry, Fact
from weightcast.store.context import Context
from weightcast.store.recipe import PAPER_HORIZON


class Untrained(Forecaster):
    """A forecaster that learns nothing: `fit` only settles its context.

    It is a combination of the past values and statistics that it sees, whose coefficients depend on
    nothing but the times: `_coefficients` gives them for the facts that `_needs` names.

    Parameters
    ----------
    context : tuple of float and str, optional
        See `Forecaster`.
    horizon : float, str, or tuple of them
        See `Forecaster`.
    """

    def __init__(
        self, context: tuple[Entry, ...] | None = None, horizon: Any = PAPER_HORIZON
    ) -> None:
        self.context = context
        self.horizon = horizon

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # it does not learn from y
        return tags

    def ready(self) -> Self:
        """Return the forecaster, fitted."""
        if hasattr(self, "context_"):
            return self
        given = self.usual() if self.context is None else self.context
        return self.fit(np.zeros((1, len(Context.of(given).columns))), np.zeros(1))

    def _learn(self, X: npt.NDArray[Any], y: npt.NDArray[Any], **options: Any) -> None:
        pass

    def _needs(self) -> tuple[str, ...]:
        """Facts of the context that the coefficients depend on."""
        return ()

    @abstractmethod
    def _coefficients(self, facts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One coefficient for each column: [F, n] where a fact is [n], and else [F, 1]; float64."""

    def _combination(self, numbers: Sequence[float | None]) -> Combination | None:
        facts = {}
        for name in self._needs():
            number = numbers[self.sees.columns.index(Fact(name))]
            if number is None:
                return None
            facts[name] = torch.tensor([number], dtype=torch.float64)
        return Combination(self._coefficients(facts)[:, 0].tolist())

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        places = {name: self.sees.columns.index(Fact(name)) for name in self._needs()}

        def values(seen: torch.Tensor) -> torch.Tensor:
            facts = {name: seen[place].to("cpu", torch.float64) for name, place in places.items()}
            return (self._coefficients(facts).to(seen) * seen).sum(0)

        return values


class LastValue(Untrained):
    """Forecasts that a weight stays what it is: the error to beat.

    Parameters
    ----------
    context : tuple of float and str, optional
        See `Forecaster`; w(t) is one of its entries.
    horizon : float, str, or tuple of them
        See `Forecaster`; the forecast does not depend on it.

    Raises
    ------
    UsageError
        By `fit` and `ready`, if the context has no w(t).

    Examples
    --------
    >>> LastValue().fit([[3.0, 2.0, 1.0, 0.0]], [4.0]).predict([[3.0, 2.0, 1.0, 0.0]])
    array([3.], dtype=float32)
    """

    def settled(self, width: int) -> tuple[Entry, ...]:
        """The context for that many columns; see `Forecaster.settled`."""
        entries = super().settled(width)
        place_of_now(Context.of(entries), type(self).__name__)
        return entries

    def _coefficients(self, facts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found = torch.zeros(self.n_features_in_, 1, dtype=torch.float64)
        found[place_of_now(self.sees, type(self).__name__)] = 1
        return found


def place_of_now(context: Context, name: str) -> int:
    """The column that has w(t).

    Parameters
    ----------
    context : Context
    name : str
        Of the forecaster that needs it, for the message.

    Raises
    ------
    UsageError
        If there is none.

    Examples
    --------
    >>> place_of_now(Context.of("slope:800/25,1"), "LastValue")
    1
    """
    if NOW not in context.columns:
        raise UsageError(
            f"{name} needs the weight at t: got context {context}: add 1 to its entries"
        )
    return context.columns.index(NOW)
