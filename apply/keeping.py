"""What a jump can be taken back by: the run's tensors as they were right before it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from weightcast.apply.flattening import local

Optimizers = Sequence[torch.optim.Optimizer]
Tree = Any  # tensors in dicts, lists and tuples, and plain values


class Kept:
    """Optimizer state and buffers of a run, copied; weights that jump are kept by the jump itself.

    Parameters
    ----------
    optimizers : sequence of Optimizer
    model : nn.Module or None
        Whose buffers, such as BatchNorm statistics, are kept.
    cleared : iterable of Tensor
        Parameters whose state is about to be cleared: it is taken as it is, not copied.
    others : iterable of Tensor
        Parameters that are trained and do not jump: they are kept too.

    Examples
    --------
    >>> model = nn.BatchNorm1d(2)
    >>> kept = Kept([], model)
    >>> _ = model(torch.randn(4, 2))
    >>> kept.put_back([], model)
    >>> model.running_mean
    tensor([0., 0.])
    """

    def __init__(
        self,
        optimizers: Optimizers,
        model: nn.Module | None,
        *,
        cleared: Iterable[torch.Tensor] = (),
        others: Iterable[torch.Tensor] = (),
    ) -> None:
        taken, copied = {id(p) for p in cleared}, {id(p) for p in others}
        self.states: list[dict[int, Tree]] = [
            {
                i: o.state[p] if id(p) in taken else _copied(o.state[p])
                for i, p in _parameters(o)
                if p in o.state
            }
            for o in optimizers
        ]
        self.others: list[dict[int, torch.Tensor]] = [
            {i: p.detach().clone() for i, p in _parameters(o) if id(p) in copied}
            for o in optimizers
        ]
        self.buffers = {name: b.detach().clone() for name, b in _buffers(model)}

    @torch.no_grad()
    def put_back(self, optimizers: Optimizers, model: nn.Module | None) -> None:
        """Make the run's state and buffers what they were, in place where they still fit.

        Learning rates and other options of parameter groups stay: they are a schedule's to set.
        Buffers that have come since stay too.
        """
        for optimizer, states, others in zip(optimizers, self.states, self.others, strict=True):
            for i, parameter in _parameters(optimizer):
                if i in others:
                    parameter.copy_(others[i])
                if i in states:
                    now = optimizer.state.get(parameter)
                    optimizer.state[parameter] = _put_back(now, states[i])
                else:
                    optimizer.state.pop(parameter, None)
        modules = {} if model is None else dict(model.named_modules())
        for name, saved in self.buffers.items():
            place, _, leaf = name.rpartition(".")
            if place in modules:
                held = modules[place]._buffers
                held[leaf] = _put_back(held.get(leaf), saved)

    def hand_over(self, before: Optimizers, now: Optimizers) -> None:
        """Go on for other optimizers of the same parameters: a new one had no state."""
        states = {id(o): state for o, state in zip(before, self.states, strict=True)}
        others = {
            id(p): kept[i]
            for o, kept in zip(before, self.others, strict=True)
            for i, p in _parameters(o)
            if i in kept
        }
        self.states = [states.get(id(o), {}) for o in now]
        self.others = [
            {i: others[id(p)] for i, p in _parameters(o) if id(p) in others} for o in now
        ]

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that is kept, for a checkpoint."""
        kept = {"states": self.states, "others": self.others, "buffers": self.buffers}
        return {name: _copied(tree) for name, tree in kept.items()}

    def load_state_dict(self, state: dict[str, Any], optimizers: Optimizers) -> None:
        """Take back what `state_dict` gave, on the devices of the parameters."""
        self.buffers = _copied(state["buffers"])
        self.states, self.others = (
            [
                {i: _on(saved[i], p.device, fast) for i, p, fast in _placed(o) if i in saved}
                for o, saved in zip(optimizers, state[name], strict=True)
            ]
            for name in ("states", "others")
        )


def kept_bytes(
    optimizers: Optimizers, model: nn.Module | None, others: Iterable[torch.Tensor] = ()
) -> int:
    """Bytes that `Kept` takes: of the state that is there, or else that a first step will make."""
    buffers = [b for _, b in _buffers(model)]
    return _bytes([*buffers, *map(local, others)]) + sum(
        _bytes(optimizer.state[p]) if p in optimizer.state else _expected(optimizer, p, group)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    )


def _expected(optimizer: torch.optim.Optimizer, p: torch.Tensor, group: dict[str, Any]) -> int:
    """Bytes of a parameter's state after its first step, tried on a parameter of one number."""
    if not p.requires_grad:
        return 0
    tried = torch.zeros(1, dtype=p.dtype, device=p.device, requires_grad=True)
    try:
        with own_randomness():
            trial = like(optimizer, group, [tried])
            tried.grad = torch.zeros_like(tried)
            step = type(trial).step
            getattr(step, "__wrapped__", step)(trial)  # past global hooks: it is no step of the run
    except Exception:  # somebody's own optimizer may want anything; then it is not foretold
        return 0
    return sum(
        t.element_size() * (local(p).numel() if t.shape == tried.shape else t.numel())
        for t in _tensors(trial.state[tried])
    )


def like(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], parameters: list[torch.Tensor]
) -> torch.optim.Optimizer:
    """A new optimizer of the kind and options of another's group, for other parameters.

    Examples
    --------
    >>> adam = torch.optim.Adam([torch.zeros(1)], lr=0.5, amsgrad=True)
    >>> like(adam, adam.param_groups[0], [torch.zeros(2)]).defaults["amsgrad"]
    True
    """
    kind: Any = type(optimizer)
    taken = inspect.signature(kind).parameters  # AdamW has a default that it does not take
    options = {k: group[k] for k in optimizer.defaults if k in taken and k in group}
    return kind(parameters, **options)  # type: ignore[no-any-return]


def own_randomness() -> AbstractContextManager[None]:
    """Within it torch's random numbers are its own: the run goes on with those it had."""
    cuda = torch.cuda.is_initialized()
    return torch.random.fork_rng([torch.cuda.current_device()] if cuda else [])


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, torch.Tensor]]:
    return enumerate(p for group in optimizer.param_groups for p in group["params"])


def _placed(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, torch.Tensor, bool]]:
    """The parameters, and whether their counts of steps are on their devices, as torch has them."""
    i = 0
    for group in optimizer.param_groups:
        for p in group["params"]:
            yield i, p, bool(group.get("capturable") or group.get("fused"))
            i += 1


def _buffers(model: nn.Module | None) -> Iterator[tuple[str, torch.Tensor]]:
    return iter(()) if model is None else model.named_buffers()


def _put_back(now: Tree, saved: Tree) -> Tree:
    """The saved values; tensors that still fit are written to, so that compiled steps see them."""
    if isinstance(saved, torch.Tensor) and isinstance(now, torch.Tensor):
        fits = now.shape == saved.shape and now.dtype == saved.dtype
        return now.copy_(saved) if fits else _copied(saved)
    if isinstance(saved, dict):
        known = now if isinstance(now, dict) else {}
        return {key: _put_back(known.get(key), value) for key, value in saved.items()}
    return _copied(saved)


def _copied(tree: Tree) -> Tree:
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_copied(value) for value in tree]
    return copy.deepcopy(tree)


def _tensors(tree: Tree) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(value)


def _bytes(tree: Tree) -> int:
    return sum(local(t).numel() * t.element_size() for t in _tensors(tree))


def _on(tree: Tree, device: torch.device, scalars: bool) -> Tree:
    """A copy, on a device; single numbers only if they belong there too."""
    if isinstance(tree, torch.Tensor):
        return tree.to(device if tree.ndim or scalars else tree.device, copy=True)
    if isinstance(tree, dict):
        return {key: _on(value, device, scalars) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_on(value, device, scalars) for value in tree]
    return copy.deepcopy(tree)
