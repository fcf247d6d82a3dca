"""The weights of lowest magnitude among many: found without sorting, and counted exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.apply.prunable import Weights
from weightcast.store import NonFiniteError


def drop_lowest(
    weights: Weights, names: Sequence[str], kept: dict[str, npt.NDArray[np.bool_]], fraction: float
) -> None:
    """Take a share of these tensors' weights out of what is kept: the lowest, counted together.

    Parameters
    ----------
    weights : Weights
    names : sequence of str
        Of the tensors.
    kept : dict of str to bool array
        Of each its shape, C-contiguous; changed in place.
    fraction : float
        Of those that are kept so far; the number is rounded.

    Raises
    ------
    NonFiniteError
        If one of those is NaN or infinite; then nothing is changed.

    Examples
    --------
    >>> import torch
    >>> from weightcast.apply.prunable import weights_of
    >>> weights = weights_of({"w": torch.tensor([3.0, -1.0, 1.0, -2.0])})
    >>> kept = {"w": np.array([True, True, True, True])}
    >>> drop_lowest(weights, ["w"], kept, 0.25)
    >>> kept["w"]
    array([ True, False,  True,  True])
    """
    magnitudes = np.concatenate([_remaining(weights, name, kept[name]) for name in names])
    count = round(fraction * magnitudes.size)
    if not count:
        return
    magnitudes.partition(count - 1)  # in linear time
    edge = magnitudes[count - 1]
    ties = count - int(np.count_nonzero(magnitudes[:count] < edge))
    del magnitudes
    for name in names:
        values, stays = np.abs(weights.read(name)), kept[name]
        equal = np.flatnonzero(stays & (values == edge))[:ties]
        ties -= equal.size
        stays &= values >= edge
        stays.reshape(-1)[equal] = False


def _remaining(weights: Weights, name: str, stays: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    magnitudes: npt.NDArray[Any] = np.abs(weights.read(name)[stays])
    if not np.isfinite(magnitudes).all():
        raise NonFiniteError(
            f"weights must be finite to be compared: {name!r} of {weights.place} has NaN or "
            "infinite ones: take an earlier step, or leave it out (exclude)"
        )
    return magnitudes
