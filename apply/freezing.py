"""Which parameters of a live model are its weights, and taking their gradients away for a while.

Without ``requires_grad`` autograd does not compute a weight's gradient, and without a gradient an
optimizer of torch leaves the weight, its momentum and its decay alone.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from weightcast.apply.bias_apart import put_together, set_apart
from weightcast.apply.freezable import fit_replicas, refuse_shards, replicas
from weightcast.recorder.selection import kind_of
from weightcast.store import UsageError

Named = dict[str, nn.Parameter]


def held_by(optimizers: Iterable[torch.optim.Optimizer]) -> list[torch.Tensor]:
    """All parameters of some optimizers."""
    return [p for o in optimizers for group in o.param_groups for p in group["params"]]


def skippable_weights(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Named:
    """The weights that can be skipped: of what is trained, all but biases and normalization.

    Parameters
    ----------
    model : nn.Module
    optimizers : sequence of Optimizer
        What they do not hold, or takes no gradient, is left alone.

    Returns
    -------
    dict of str to Parameter
        Convolutions, matrices, embeddings. What stays is a bias by its name, belongs to a module
        that normalizes, or has no more than one dimension.

    Raises
    ------
    UsageError
        If there are none, or nothing else would be trained.

    Examples
    --------
    >>> model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2), nn.PReLU(), nn.LayerNorm([1, 2]))
    >>> list(skippable_weights(model, [torch.optim.SGD(model.parameters())]))
    ['0.weight', '1.weight']
    """
    held = set(map(id, held_by(optimizers)))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad and id(p) in held}
    weights = {n: p for n, p in trained.items() if p.ndim > 1 and kind_of(model, n) == "weight"}
    if not weights:
        raise UsageError(
            "skipping needs weights of the model that its optimizer trains: of its "
            f"{len(list(model.parameters()))} parameters the optimizer trains {len(trained)}, none "
            "of them a weight: give the optimizer of this model, and unfreeze its weights"
        )
    if len(weights) == len(trained):
        raise UsageError(
            "while weights are skipped, biases and normalization are trained: this model trains "
            f"{len(weights)} weights and none of these, so that backward would have nothing to do: "
            "add biases (bias=True)"
        )
    return weights


class Freezer:
    """Takes the gradients of a model's weights away, and gives them back.

    Parameters
    ----------
    model : nn.Module
        Without its wrappers.
    optimizers : sequence of Optimizer

    Attributes
    ----------
    frozen : tuple of str
        Names of the weights that have none now, by us.

    Raises
    ------
    UsageError
        If the weights cannot be frozen.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> freezer = Freezer(model, [torch.optim.SGD(model.parameters())])
    >>> freezer.freeze()
    >>> freezer.frozen, model.weight.requires_grad
    (('weight',), False)
    >>> freezer.thaw()
    >>> freezer.frozen, model.weight.requires_grad
    ((), True)
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self.frozen: tuple[str, ...] = ()
        self._replicas: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # when they were frozen
        refuse_shards(model)
        fit_replicas(skippable_weights(model, optimizers).values())
        self._require_alone()
        _OPEN.add(self)

    def freeze(self) -> None:
        """Take gradients away: no more are computed, and an old one moves nothing.

        Raises
        ------
        UsageError
            If the run has changed so that they cannot be.
        """
        weights = skippable_weights(self._model, self._optimizers)
        self._replicas = weakref.WeakSet(fit_replicas(weights.values()))
        for p in weights.values():
            p.requires_grad_(False)
            p.grad = None
        set_apart(self._model)
        self.frozen = tuple(weights)

    def thaw(self) -> None:
        """Give gradients back, to what stands under the frozen names now.

        Raises
        ------
        UsageError
            If DDP was made in between.
        """
        weights, self.frozen = self._now(), ()
        put_together(self._model)
        for p in weights.values():
            p.requires_grad_(True)
        if weights and any(r not in self._replicas for r in replicas(weights.values())):
            raise UsageError(
                "DistributedDataParallel must be made while all weights take gradients, as it "
                "leaves out for good what takes none: make it before the skipper, or before its "
                "load_state_dict"
            )

    def close(self) -> None:
        """Give gradients back, and leave the model to others."""
        _OPEN.discard(self)
        self.thaw()

    def thawed(self) -> list[str]:
        """Which of the frozen names others have given gradients back."""
        return [name for name, p in self._now().items() if p.requires_grad]

    def require_frozen(self) -> None:
        """Check that nobody else has given gradients back.

        Raises
        ------
        UsageError
        """
        thawed = self.thawed()
        if thawed:
            raise UsageError(
                "weights that are skipped must stay without gradients: requires_grad of "
                f"{thawed[0]!r} was switched on by others: a run that does so, as GANs do, cannot "
                "skip weights"
            )

    def require_held(
        self, before: Iterable[torch.optim.Optimizer], after: torch.optim.Optimizer
    ) -> None:
        """Check that an optimizer holds the frozen weights of those that it takes the place of.

        Raises
        ------
        UsageError
        """
        lost = set(map(id, held_by(before))) - set(map(id, held_by([after])))
        names = [name for name, p in self._now().items() if id(p) in lost]
        if names:
            raise UsageError(
                f"an optimizer made while weights are skipped must hold them too: this "
                f"{type(after).__name__} leaves out {names[0]!r}, which the one before it trained, "
                "as requires_grad is off meanwhile: make it of model.parameters()"
            )

    def _require_alone(self) -> None:
        mine = set(map(id, self._model.parameters()))

        def others() -> bool:
            return any(not mine.isdisjoint(map(id, o._model.parameters())) for o in _OPEN)

        if others():
            gc.collect()  # one that was dropped with its optimizer may be garbage
            if others():
                raise UsageError(
                    "a model's updates are skipped by one skipper at a time: another one has "
                    "parameters of this model: close() it, or use it in a with statement"
                )

    def _now(self) -> Named:
        if not self.frozen:
            return {}
        frozen = set(self.frozen)
        return {n: p for n, p in self._model.named_parameters() if n in frozen}


_OPEN: weakref.WeakSet[Freezer] = weakref.WeakSet()  # those that may freeze weights at any time


class Gradients:
    """Tells gradients that wait for an optimizer step from those that one has used.

    Used ones stay where they are until the next ``zero_grad``; those of a half-accumulated batch
    look the same.

    Examples
    --------
    >>> weight, gradients = nn.Parameter(torch.ones(1)), Gradients()
    >>> weight.sum().backward()
    >>> gradients.waiting([weight])
    True
    >>> gradients.use([weight])  # after an optimizer step
    >>> gradients.waiting([weight])
    False
    """

    def __init__(self) -> None:
        self._used: list[tuple[weakref.ref[torch.Tensor], int]] = []

    def use(self, parameters: Iterable[torch.Tensor]) -> None:
        """Note that a step has used the gradients that are there."""
        # weakly: they would outlive zero_grad, and cost a model's memory
        grads = [p.grad for p in parameters if p.grad is not None]
        self._used = [(weakref.ref(grad), grad._version) for grad in grads]

    def waiting(self, parameters: Iterable[torch.Tensor]) -> bool:
        """Whether any gradient came, or changed, since the last step."""
        alive = [(ref(), version) for ref, version in self._used]
        used = {id(grad): version for grad, version in alive if grad is not None}
        grads = [p.grad for p in parameters if p.grad is not None]
        return any(used.get(id(grad)) != grad._version for grad in grads)
