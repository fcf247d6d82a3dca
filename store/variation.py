"""How far weights moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import ShapeError

Float = npt.NDArray[np.floating[Any]]


def variation(values: Float, initial: Float) -> Float:
    """Absolute change of each weight since the first recorded step.

    Parameters
    ----------
    values : float array, shape (P,)
        Weights at step t, in the model's own units.
    initial : float array, shape (P,)
        The same weights at step 0.

    Returns
    -------
    float array, shape (P,)
        |w(t) - w(0)|, in the dtype of the inputs; infinite where that is too large for it.

    Raises
    ------
    ShapeError
        If the shapes differ; the message gives both.

    Notes
    -----
    Section 4.1 of Sinha et al. 2017. O(P) time.

    Examples
    --------
    >>> variation(np.float32([1, 2]), np.float32([1, 4]))
    array([0., 2.], dtype=float32)
    """
    if values.shape != initial.shape:
        raise ShapeError(
            f"values and initial must have one shape: got {values.shape} and {initial.shape}"
        )
    with np.errstate(over="ignore"):
        change: Float = np.abs(values - initial)
    return change
