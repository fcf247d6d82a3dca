"""One jump of live parameters: what is written, and what it can be taken back by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from weightcast.apply.flattening import local
from weightcast.apply.jumping import all_finite
from weightcast.apply.members import Members
from weightcast.apply.ranks import growth
from weightcast.apply.watching import Watch
from weightcast.apply.writing import write_forecasts
from weightcast.predictor import Forecaster


@dataclass(frozen=True)
class Leap:
    """A jump that was made.

    Attributes
    ----------
    moved : list of int
        Numbers of the parameters that jumped.
    backups : list of Tensor, shape (n,)
        Their values before, flattened.
    growth : float
        How many times as large they have become, in root mean square; over all ranks.
    culprit : str
        A parameter that is not finite now, if there is one on this rank.
    """

    moved: list[int]
    backups: list[torch.Tensor]
    growth: float
    culprit: str

    def fault(self, explosion: float) -> str:
        """Why these weights are no forecast; empty if they may be one."""
        if not math.isfinite(self.growth):
            return "its forecast is NaN or infinite"
        if self.growth > explosion:
            return f"it would make the weights {self.growth:.3g} times as large"
        return ""


@torch.no_grad()
def leap(t: int, target: int, members: Members, watch: Watch, forecaster: Forecaster) -> Leap:
    """Write the forecasts of all parameters that jump at t, which is now, over their weights.

    Parameters
    ----------
    t, target : int
        The jump point, and the step to forecast.
    members : Members
    watch : Watch
        That has seen what the jump needs. Rows that no later jump needs become the backups.
    forecaster : Forecaster

    Returns
    -------
    Leap

    Raises
    ------
    ShapeError
        If a parameter has another shape than at first; then none was changed.
    """
    members.require_shapes(t)  # what is read on the way checks its own
    moved = members.moving()
    parameters = [local(members.jumping[i]) for i in moved]
    layouts = [watch.layouts[i] for i in moved]
    spare = watch.spare(t)
    backups = [
        torch.empty_like(layout.flat(p)) if spare is None else spare[i]
        for i, p, layout in zip(moved, parameters, layouts, strict=True)
    ]
    squares = write_forecasts(
        parameters, layouts, watch.rows(t, target, moved), forecaster, backups
    )
    found = growth(squares, [members.jumping[i] for i in moved])
    bad = [] if math.isfinite(found) else zip(parameters, layouts, strict=True)
    culprits = [layout.name for p, layout in bad if not all_finite(layout.flat(p))]
    return Leap(moved, backups, found, culprits[0] if culprits else "")
