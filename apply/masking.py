"""Masks that hold while a model trains: pruned weights stay exactly 0.

::

    backward   gradient of a pruned weight := 0       so that clipping sees the sub-network only
    step       whatever the optimizer does
    after it   pruned weight := 0                     momentum, weight decay, a jump, ...
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from weightcast.apply.held_tensor import HeldTensor
from weightcast.apply.masks import Mask, checked_mask, named_tensors
from weightcast.apply.prunable import weights_of
from weightcast.recorder.checkpoints import State
from weightcast.recorder.selection import unwrap
from weightcast.recorder.step import plain_optimizer, untraced
from weightcast.store import RecordingError, UsageError


def hold(
    model: nn.Module,
    mask: Mask,
    optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
) -> Held:
    """Set a model's pruned weights to 0, and keep them exactly 0 after every optimizer step.

    Parameters
    ----------
    model : nn.Module
        Data-parallel and compiled wrappers are looked through.
    mask : mapping of str to bool Tensor, or nn.Module with such a ``state_dict``
        As of `prune`: by parameter name, True where a weight stays. Other parameters are not held.
    optimizers : Optimizer or sequence of Optimizer, optional
        Those that train the model, to have it checked that they have the weights that are held.
        Given or not, the steps of every ``torch.optim.Optimizer`` that has some of them are
        followed, also of one that is made later.

    Returns
    -------
    Held
        A context manager; until it is closed the mask holds.

    Raises
    ------
    ShapeError
        If the mask is of another model: the message names the first tensor that does not fit.
    UsageError
        If the mask is empty, the optimizers have no hooks, or leave a weight out that is trained.
    RecordingError
        If the model has parameters without values, or that are no real numbers.

    Notes
    -----
    Gradients of pruned weights are 0 before anything sees them, so gradient norms are those of the
    sub-network. What the optimizer has in its state for pruned weights becomes 0 too. Names and
    modules of the model stay as they are, unlike with ``torch.nn.utils.prune``, which puts
    ``weight_orig`` in the place of ``weight``: histories, checkpoints, `rewind` and ``deepcopy``
    go on as before. A copy of the model is not held.

    Weights that change otherwise than by an optimizer's step (``load_state_dict``, averaging, an
    optimizer without torch's hooks) are 0 again after the next step, or by `Held.apply` at once.
    ``AveragedModel`` averages zeros: make it after `hold`. Gradients with a sparse layout are left
    as they are. Memory: two bytes for each weight that has a mask. A plain Adam on a CPU is slowed
    down by its square roots of zeros; ``fused=True`` is not.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    >>> with hold(model, {"weight": torch.tensor([[True, False]])}):
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> model.weight.ne(0).tolist(), model.weight.grad.tolist()
    ([[True, False]], [[1.0, 0.0]])
    """
    return Held(model, mask, optimizers)


class Held:
    """A mask that holds, as made by `hold`. Closed, or left, it lets go; the weights stay 0."""

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    ) -> None:
        if not named_tensors(mask):
            raise UsageError("a mask to hold must have tensors: got one without any")
        weights, plain = weights_of(model), unwrap(model)
        checked = checked_mask(mask, weights.shapes, weights.names, "parameters", "of the model")
        if optimizers is not None:
            _require_trained(plain, checked, optimizers)
        self._met: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._parts = [HeldTensor(plain, name, kept) for name, kept in checked.items()]
        # a model that nobody uses any more is let go, whether this was closed or not
        weakref.finalize(plain, self._parts.clear)
        self._handles: list[RemovableHandle] = [
            # those of all optimizers run after an optimizer's own, such as a jump
            register_optimizer_step_pre_hook(untraced(self._before)),
            register_optimizer_step_post_hook(untraced(self._after)),
        ]

    def apply(self) -> None:
        """Set the pruned weights to 0 now, and their gradients.

        Raises
        ------
        ShapeError
            If a parameter is gone, or has another shape.
        """
        for part in self._parts:
            part.clear()

    def close(self) -> None:
        """Let go. Pruned weights stay as they are, 0, and can be trained again."""
        for handle in self._handles:
            handle.remove()
        for part in self._parts:
            part.release()
        self._parts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer in self._met:
            return
        self._met.add(optimizer)
        for part in self._of(optimizer):
            part.clear_state(optimizer)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for part in self._of(optimizer):
            part.clear_weights()

    def _of(self, optimizer: torch.optim.Optimizer) -> list[HeldTensor]:
        """Those whose weights it steps: of others a backward pass may still need the values."""
        here = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [part for part in self._parts if id(part.now()) in here]


def _require_trained(
    model: nn.Module,
    mask: State,
    optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
) -> None:
    given = optimizers if isinstance(optimizers, Sequence) else [optimizers]
    try:
        groups = [group for o in given for group in plain_optimizer(o).param_groups]
    except RecordingError as error:
        raise UsageError(
            "a mask holds by the hooks of a torch.optim.Optimizer, and one of those given has "
            "none: leave it out, and call Held.apply() after each of its steps"
        ) from error
    trained = {id(p) for group in groups for p in group["params"]}
    for name in mask:
        p = model.get_parameter(name)
        if p.requires_grad and id(p) not in trained:
            raise UsageError(
                f"the optimizers must have the weights that are held: none of the {len(given)} "
                f"given has {name!r}: give all that train the model, or none"
            )
