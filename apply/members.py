"""Which parameters of live optimizers jump."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from weightcast.apply.flattening import local
from weightcast.apply.owning import Ownership
from weightcast.store import ShapeError, UsageError


class Members:
    """The parameters of some optimizers, and which of them jump.

    Parameters
    ----------
    optimizers : sequence of Optimizer
    only : iterable of Tensor, optional
        Which parameters jump; by default all.

    Attributes
    ----------
    parameters : list of Tensor
        All parameters, in the order of the optimizers' groups, as they were when last taken.
    jumping : list of Tensor
        Those of them that may jump, in that order. Integers, which no optimizer trains, do not.

    Raises
    ------
    UsageError
        If some of `only` are not the optimizers', parameters that are to jump are no real numbers,
        or some have another jumper.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 1)
    >>> _ = layer.bias.requires_grad_(False)
    >>> members = Members([torch.optim.SGD(layer.parameters())])
    >>> len(members.parameters), members.moving()
    (2, [0])
    >>> members.release()
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        only: Iterable[torch.Tensor] | None = None,
    ) -> None:
        self._optimizers = optimizers
        self._only = None if only is None else list(only)
        self.take()

    def take(self) -> None:
        """Take the optimizers' parameters as they are now."""
        parameters = self._now()
        jumping = self._choose(parameters)
        self._ownership = Ownership(parameters)
        self.parameters = self._held = parameters
        self.jumping = jumping
        self._shapes = [p.shape for p in parameters]

    def _choose(self, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
        if self._only is None:  # integers are never trained
            jumping = [p for p in parameters if p.is_floating_point() or p.requires_grad]
        else:
            chosen = {id(p) for p in self._only}
            jumping = [p for p in parameters if id(p) in chosen]
            if len({id(p) for p in jumping}) < len(chosen):
                raise UsageError(
                    "parameters to jump must be some of the optimizer's: got "
                    f"{len(chosen) - len(jumping)} others among {len(chosen)}"
                )
        if not jumping:
            raise UsageError("a jumper needs parameters to jump: got none")
        for p in jumping:
            if not p.is_floating_point():
                raise UsageError(
                    f"weights that jump are real numbers: one of shape {tuple(p.shape)} is "
                    f"{p.dtype}: name the others by parameters="
                )
        return jumping

    def release(self) -> None:
        """Let others have them."""
        self._ownership.release()

    def same(self) -> bool:
        """Whether the optimizers still have just these parameters."""
        now = self._now()
        return len(now) == len(self._held) and all(
            a is b for a, b in zip(now, self._held, strict=True)
        )

    def hand_over(self, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
        """Go on with other optimizers of these parameters; what none of them holds jumps no more.

        Raises
        ------
        ShapeError
            If they have further parameters.
        """
        self._optimizers, self._held = optimizers, self.parameters
        now = self._now()
        if {id(p) for p in now} <= {id(p) for p in self.parameters}:
            self._held = now
        self.require_same(step)

    def require_same(self, step: int) -> None:
        """Check that the optimizers still have just these parameters.

        Raises
        ------
        ShapeError
        """
        if not self.same():
            raise ShapeError(
                f"the optimizer must keep its parameters: it had {len(self.parameters)} when "
                f"training began, and has others at step {step}: add all parameter groups before "
                "the first step"
            )

    def require_shapes(self, step: int) -> None:
        """Check that the parameters still have their shapes.

        Raises
        ------
        ShapeError
        """
        for before, p in zip(self._shapes, self.parameters, strict=True):
            if p.shape != before:
                raise ShapeError(
                    f"parameters must keep their shapes: one had {tuple(before)} when training "
                    f"began, and has {tuple(p.shape)} at step {step}: close() the jumper before "
                    "the model changes, and make another"
                )

    def moving(self) -> list[int]:
        """Numbers of those that jump now: not frozen ones, and shared memory only once."""
        found: dict[object, int] = {}
        held = {id(p) for p in self._held}
        for i, p in enumerate(self.jumping):
            if p.requires_grad and id(p) in held:
                found.setdefault(_place(p), i)
        return list(found.values())

    def others(self) -> list[torch.Tensor]:
        """Parameters that are trained and do not jump."""
        moved = {_place(self.jumping[i]) for i in self.moving()}
        return [p for p in self.parameters if p.requires_grad and _place(p) not in moved]

    def _now(self) -> list[torch.Tensor]:
        return [p for o in self._optimizers for group in o.param_groups for p in group["params"]]


def _place(parameter: torch.Tensor) -> object:
    """Equal for parameters that are the same numbers in memory, also where one is transposed."""
    held = local(parameter)
    axes = sorted((stride, n) for stride, n in zip(held.stride(), held.shape, strict=True) if n > 1)
    return (held.data_ptr(), *axes) if held.numel() else id(parameter)
