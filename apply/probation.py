"""A jump on probation: what it can be taken back by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weightcast.apply.flattening import Layout, local
from weightcast.apply.keeping import Kept, Optimizers
from weightcast.store import ShapeError


@dataclass
class Probation:
    """What is kept from right before a jump until it is judged.

    Attributes
    ----------
    jump : int
        The jump point.
    moved : list of int
        Numbers of the parameters that jumped.
    weights : list of Tensor, shape (n,)
        Their values before, flattened.
    kept : Kept
        Optimizer state and buffers before.
    """

    jump: int
    moved: list[int]
    weights: list[torch.Tensor]
    kept: Kept

    @torch.no_grad()
    def put_back_weights(
        self, parameters: Sequence[torch.Tensor], layouts: Sequence[Layout]
    ) -> None:
        """Make the weights what they were before the jump."""
        for i, row in zip(self.moved, self.weights, strict=True):
            into = local(parameters[i])
            into.copy_(layouts[i].shaped(row.to(into)))

    def state_dict(self, layouts: Sequence[Layout]) -> dict[str, Any]:
        """Copies of all of it, the weights in their parameters' shapes."""
        pairs = zip(self.moved, self.weights, strict=True)
        return {
            "jump": self.jump,
            "moved": list(self.moved),
            "weights": [layouts[i].saved(w) for i, w in pairs],
            "kept": self.kept.state_dict(),
        }

    @classmethod
    def of(
        cls,
        state: dict[str, Any],
        parameters: Sequence[torch.Tensor],
        layouts: Sequence[Layout],
        optimizers: Optimizers,
    ) -> Probation:
        """Take back what `state_dict` gave.

        Raises
        ------
        ShapeError
            If it is of other parameters or optimizers.
        """
        moved = [int(i) for i in state["moved"]]
        known = len(state["kept"]["states"])
        if max(moved, default=-1) >= len(layouts) or known != len(optimizers):
            raise ShapeError(
                "a jump on probation must be of the run's own parameters and optimizers: got one "
                f"of parameter {max(moved, default=0)} and {known} optimizers, and there are "
                f"{len(layouts)} and {len(optimizers)}: load the checkpoint of the same model"
            )
        kept = Kept([], None)
        kept.load_state_dict(state["kept"], optimizers)
        weights = [
            layouts[i].flat(w).to(local(parameters[i]), copy=True)
            for i, w in zip(moved, state["weights"], strict=True)
        ]
        return cls(int(state["jump"]), moved, weights, kept)
