"""Noise as large as real changes: the control that a forecaster has to beat by more than luck."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from weightcast.predictor.baselines import place_of_now
from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.validating import drawn_seed
from weightcast.store import FormatError, UsageError
from weightcast.store.columns import Entry
from weightcast.store.context import Context
from weightcast.store.recipe import PAPER_HORIZON

_AT_ONCE = 1 << 18  # samples
_LARGEST = 1e30  # what float32 can hold, with room


class GaussianNoise(Forecaster):
    """Forecasts the weight at t plus normal noise.

    Parameters
    ----------
    std : float, optional
        Standard deviation of the noise, in the weights' units. By default it is learned: the root
        mean square of y - w(t), so that it moves weights as far as training does.
    context : tuple of float and str, optional
        See `Forecaster`; w(t) is one of its entries.
    horizon : float, str, or tuple of them
        See `Forecaster`; the noise depends on it by what is learned only.
    random_state : int, RandomState or None
        Seeds the noise.

    Attributes
    ----------
    std_ : float
    seed_ : int
        What the noise is keyed by.

    Notes
    -----
    Section 4.5.1 of Sinha et al. 2017. The noise of a weight is a function of the seed and of all
    that is seen of this weight (as float32), and of nothing else: it is the same whatever weights
    are forecast with it, in whatever order, on whatever device (there to rounding). So weights of
    which exactly the same is seen get the same noise.

    Examples
    --------
    >>> X = np.float32([[0.3, 0.2, 0.1, 0.0], [0.4, 0.2, 0.1, 0.0]])
    >>> noise = GaussianNoise().fit(X, [0.4, 0.5])
    >>> round(noise.std_, 6), (noise.predict(X) - X[:, 0]).round(3)
    (0.1, array([ 0.134, -0.093], dtype=float32))
    """

    block = 1 << 15

    def __init__(
        self,
        std: float | None = None,
        context: tuple[Entry, ...] | None = None,
        horizon: Any = PAPER_HORIZON,
        random_state: Any = 0,
    ) -> None:
        self.std = std
        self.context = context
        self.horizon = horizon
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # it is noise
        return tags

    def ready(self) -> Self:
        """Return the forecaster, fitted: with `std` given it needs no training.

        Raises
        ------
        UnfittedError
            If `std` is None and it was not fitted.
        """
        if self.std is None or hasattr(self, "context_"):
            return super().ready()
        given = self.usual() if self.context is None else self.context
        return self.fit(np.zeros((1, len(Context.of(given).columns))), np.zeros(1))

    def settled(self, width: int) -> tuple[Entry, ...]:
        """The context for that many columns; see `Forecaster.settled`."""
        entries = super().settled(width)
        place_of_now(Context.of(entries), type(self).__name__)
        return entries

    def check_options(self) -> None:
        """Check the options; see `Forecaster.check_options`."""
        super().check_options()
        if self.std is not None and not (isinstance(self.std, Real) and 0 <= self.std <= _LARGEST):
            raise UsageError(
                f"std must be a number from 0 to {_LARGEST:g}, or None: got {self.std!r}"
            )

    def _learn(
        self,
        X: npt.NDArray[Any],
        y: npt.NDArray[Any],
        rows: npt.NDArray[np.int64] | None = None,
        **options: Any,
    ) -> None:
        if rows is not None and not len(rows):
            raise UsageError("there must be samples to learn from: got no rows")
        place = place_of_now(Context.of(self.context_), type(self).__name__)
        count, total = len(X) if rows is None else len(rows), 0.0
        for low in range(0, count if self.std is None else 0, _AT_ONCE):
            part = slice(low, low + _AT_ONCE) if rows is None else rows[low : low + _AT_ONCE]
            change = y[part].astype(np.float64) - X[part, place]
            total += float(change @ change)
        self.std_ = math.sqrt(total / count) if self.std is None else float(self.std)
        self.seed_ = drawn_seed(self.random_state)

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        place = place_of_now(self.sees, type(self).__name__)

        def values(seen: torch.Tensor) -> torch.Tensor:
            noise = normal(hashed(seen, self.seed_))
            return seen[place] + (noise * self.std_).to(seen.dtype)

        return values

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was learned, by name, for a file."""
        return {
            "std_": torch.tensor(self.std_, dtype=torch.float64),
            "seed_": torch.tensor(self.seed_),
        }

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `tensors` gave.

        Raises
        ------
        FormatError
            If names, shapes, dtypes or values are others.
        """
        for name, dtype in (("std_", torch.float64), ("seed_", torch.int64)):
            found = tensors.get(name)
            if found is None or found.shape != () or found.dtype != dtype:
                raise FormatError(f"tensor {name!r}, one {dtype}, is missing or another")
            if not 0 <= found.item() < math.inf:
                raise FormatError(f"tensor {name!r} must not be negative: got {found.item()}")
            setattr(self, name, found.item())


def hashed(seen: torch.Tensor, seed: int) -> torch.Tensor:
    """64 random bits for each column of numbers, which depend on the column and the seed only.

    Parameters
    ----------
    seen : Tensor, shape (F, n)
        Hashed as float32.
    seed : int

    Returns
    -------
    int64 Tensor, shape (n,)

    Examples
    --------
    >>> bits = hashed(torch.tensor([[1.0, 2.0, 1.0]]), seed=0)
    >>> bool(bits[0] == bits[2]), bool(bits[0] == bits[1])
    (True, False)
    """
    bits = (seen.float() + 0).contiguous().view(torch.int32).long()  # + 0: -0 is 0
    found = _mixed(torch.full_like(bits[0], seed))
    for row in bits:
        found = _mixed(found ^ row)
    return found


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    """The finalizer of splitmix64 (Steele et al. 2014): every bit depends on every other.

    Integers wrap around, on every device alike; `>>` copies the sign, so that it is masked off.
    """
    bits = bits + _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def normal(bits: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers from 64 random bits each, by Box and Muller's transform.

    Parameters
    ----------
    bits : int64 Tensor, shape (n,)

    Returns
    -------
    float64 Tensor, shape (n,)

    Examples
    --------
    >>> normal(torch.zeros(2, dtype=torch.int64)).round(decimals=3).tolist()
    [6.764, 6.764]
    """
    low, high = (bits & 0xFFFFFFFF).double(), ((bits >> 32) & 0xFFFFFFFF).double()
    uniform, turn = (low + 0.5) * 2.0**-32, high * (2 * math.pi * 2.0**-32)
    return torch.sqrt(-2 * torch.log(uniform)) * torch.cos(turn)
