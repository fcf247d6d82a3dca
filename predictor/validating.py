"""Samples as a forecaster takes them: arrays of finite numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from weightcast.store import NonFiniteError, UsageError

_AT_ONCE = 1 << 18  # samples, so that no second array as large as a memory-mapped one is made


def validated(estimator: Any, X: npt.ArrayLike, *y: npt.ArrayLike, reset: bool = False) -> Any:
    """X, or X and y, as float32 or float64 arrays; memory-mapped ones are not copied.

    Parameters
    ----------
    estimator : estimator
        Whose number of columns is checked, or set if `reset`.
    X : float array, shape (N, F)
    *y : float array, shape (N,)
    reset : bool

    Raises
    ------
    NonFiniteError
        If one is NaN or infinite: names the first row.
    ValueError
        If shapes are others.
    """
    # scikit-learn's own check of finiteness has another error, and no row in its message
    options: Any = {"dtype": [np.float32, np.float64], "ensure_all_finite": False}
    for values in map(np.asarray, y):
        if values.ndim and values.dtype.kind == "f":
            _require_finite("y", values)  # of y, its own check cannot be turned off
    if y:
        options["y_numeric"] = True
    checked: Any = validate_data(estimator, X, *y, reset=reset, **options)
    for name, values in zip("Xy", checked if y else [checked], strict=False):
        _require_finite(name, values)
    return checked


def drawn_seed(random_state: Any) -> int:
    """A seed from an option `random_state`; UsageError if it is none.

    Examples
    --------
    >>> drawn_seed(0) == drawn_seed(0)
    True
    """
    try:
        return int(check_random_state(random_state).randint(2**31))
    except ValueError as error:
        raise UsageError(
            "random_state must be a whole number from 0 to 2**32 - 1, a RandomState or None: got "
            f"{random_state!r:.80}"
        ) from error


def _require_finite(name: str, values: npt.NDArray[Any]) -> None:
    for low in range(0, len(values), _AT_ONCE):
        good = np.isfinite(values[low : low + _AT_ONCE])
        if not good.all():
            row = low + int(np.argwhere(~good)[0, 0])
            raise NonFiniteError(
                f"samples must be finite: {name} has NaN or infinity in row {row}: leave such "
                "samples out"
            )
