"""What is known of a weight without looking at it: of its tensor, and of the forecast's time."""

from __future__ import annotations

import math
from typing import Any

TIMES = ("step", "ahead", "ratio")
TENSORS = ("scale", "size", "fan-in", "dims")


def time_facts(t: Any, target: Any) -> dict[str, Any]:
    """Facts of a forecast from step t to step `target`, or of arrays of them.

    Examples
    --------
    >>> time_facts(1000, 1500)
    {'step': 1000, 'ahead': 500, 'ratio': 1.5}
    """
    return {"step": t, "ahead": target - t, "ratio": target / t}


def tensor_facts(shape: tuple[int, ...], scale: float) -> dict[str, float]:
    """Facts of a tensor; its fan-in is that of torch's initialisers, 1 for a vector.

    Parameters
    ----------
    shape : tuple of int
    scale : float
        Root mean square of its weights at the run's first step.

    Examples
    --------
    >>> tensor_facts((8, 3, 5, 5), 0.1)
    {'scale': 0.1, 'size': 600, 'fan-in': 75, 'dims': 4}
    """
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    return {"scale": scale, "size": math.prod(shape), "fan-in": fan_in, "dims": len(shape)}
