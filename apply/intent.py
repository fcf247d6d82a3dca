"""What a rank of a distributed run is about to do, in words that ranks can compare."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from weightcast.apply.guard import Guard
from weightcast.apply.placing import Placement
from weightcast.apply.plan import JumpPlan
from weightcast.apply.settling import Moments
from weightcast.predictor import Forecaster

TRIED = 4  # samples that a forecaster without numbers of its own is told by


def intent(
    forecaster: Forecaster,
    plan: JumpPlan,
    guard: Guard | None,
    moments: Moments,
    placement: Placement,
    parameters: Sequence[torch.Tensor],
    step: int,
) -> str:
    """What all ranks must be about to do alike: options, and a digest of all else.

    Examples
    --------
    >>> from weightcast.apply.reach import Reach
    >>> from weightcast.predictor import LinearFit
    >>> plan, none = JumpPlan({10: 20}, Reach(2.0)), Placement()
    >>> alike = [intent(LinearFit().ready(), plan, None, "keep", none, [], 0) for _ in range(2)]
    >>> alike[0] == alike[1] != intent(LinearFit().ready(), plan, None, "clear", none, [], 0)
    True
    """
    every = None if guard is None else guard.every
    rule = guard and replace(guard, probe=None, every=None)  # a function is each rank's own
    digest = hashlib.sha256(f"{plan.targets} {[tuple(p.shape) for p in parameters]}".encode())
    digest.update(_numbers(forecaster))
    return (
        f"{plan} from step {step} with moments={moments!r}, {rule}, probed every {every}, "
        f"{placement}, the context {forecaster.sees}, and {digest.hexdigest()[:8]} as the digest "
        "of all points, shapes and the forecaster"
    )


def _numbers(forecaster: Forecaster) -> bytes:
    """What a forecaster has learned; of one that does not show it, what it makes of samples."""
    tensors = [t.detach().cpu().double().numpy() for t in forecaster.tensors().values()]
    if not tensors:
        width = len(forecaster.sees.columns)
        samples = 1 + np.arange(TRIED * width).reshape(TRIED, width) / (TRIED * width)
        tensors = [np.asarray(forecaster.predict(samples), dtype=np.float64)]
    return b"".join(t.tobytes() for t in tensors)
