"""The rules of perturbations: from tensors as recorded to perturbed ones, as plain data.

Each tensor has a generator of its own, on the CPU: what is drawn depends on seed, kind and name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real

import torch

from weightcast.apply.drawing import generator_of
from weightcast.recorder.checkpoints import State
from weightcast.store import NonFiniteError, Parameter, UsageError
from weightcast.store.keyed import check_seed

Tensor = torch.Tensor


@dataclass(frozen=True)
class Group:
    """The tensors to perturb, by name.

    Attributes
    ----------
    now, start : dict of str to Tensor
        As recorded at the step, and at the first one.
    kept : dict of str to bool Tensor
        Where the mask is True.
    """

    now: State
    start: State
    kept: State

    @classmethod
    def of(cls, wanted: Sequence[Parameter], now: State, start: State, masks: State) -> Group:
        """Those of whole states; without a mask all weights are kept."""
        names = [p.name for p in wanted]
        kept = {n: masks.get(n, torch.ones(now[n].shape, dtype=torch.bool)) for n in names}
        return cls({n: now[n] for n in names}, {n: start[n] for n in names}, kept)


def require_finite(state: State, place: str) -> None:
    """Check that no number is NaN or infinite.

    Raises
    ------
    NonFiniteError
        Naming the first tensor with one.
    """
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise NonFiniteError(
                f"weights to perturb must be finite: {name!r} is not at {place}: take an earlier "
                "step, or leave it out (exclude)"
            )


Rule = Callable[[Group], State]
Draw = Callable[[str], torch.Generator]


def rule_of(kind: str, seed: int, scale: float) -> Rule:
    """What makes perturbed tensors of a group, its arguments checked.

    Raises
    ------
    UsageError
    """
    if kind not in _RULES:
        near = get_close_matches(str(kind)[:80], KINDS, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"a perturbation is one of {', '.join(KINDS)}: got {kind!r:.80}{meant}")
    check_seed(seed)
    if not isinstance(scale, Real) or not 0 <= scale < math.inf:
        raise UsageError(f"scale must be a number from 0 on: got {scale!r:.60}")

    def draw(name: str) -> torch.Generator:
        return generator_of(f"{seed}/{kind}/{name}")

    return lambda group: _RULES[kind](group, draw, scale)


def _signs(group: Group, draw: Draw, _: float) -> State:
    return {
        name: torch.copysign(_permuted(group.start[name].abs(), draw(name)), now)
        for name, now in group.now.items()
    }


def _magnitudes(group: Group, draw: Draw, _: float) -> State:
    return {
        name: torch.where(_coins(now, draw(name)), now, -now) for name, now in group.now.items()
    }


def _within_filters(group: Group, draw: Draw, _: float) -> State:
    return _shuffled(group, draw, lambda tensor: len(tensor) if tensor.ndim else 1)


def _within_layers(group: Group, draw: Draw, _: float) -> State:
    return _shuffled(group, draw, lambda tensor: 1)


def _across(group: Group, draw: Draw, _: float) -> State:
    flat = {
        name: torch.cat([t.reshape(-1) for t in state.values()])
        for name, state in (("now", group.now), ("kept", group.kept))
    }
    # the names are part of what is drawn: they are the scope
    moved = _among_kept(flat["now"][None], flat["kept"][None], draw("\0".join(group.now)))
    parts = moved[0].split([t.numel() for t in group.now.values()])
    return {
        name: part.view(t.shape) for (name, t), part in zip(group.now.items(), parts, strict=True)
    }


def _noise(group: Group, draw: Draw, scale: float) -> State:
    found = {}
    for name, now in group.now.items():
        change = (now.double() - group.start[name].double())[group.kept[name]]
        size = scale * float(change.std(correction=0)) if len(change) else 0.0
        drawn = torch.randn(now.shape, generator=draw(name), dtype=torch.float64)
        found[name] = (now + size * drawn).to(now.dtype)
    return found


_RULES: Mapping[str, Callable[[Group, Draw, float], State]] = {
    "signs": _signs,
    "magnitudes": _magnitudes,
    "shuffle-layer": _within_layers,
    "shuffle-filter": _within_filters,
    "shuffle-global": _across,
    "noise": _noise,
}
KINDS = tuple(_RULES)


def _permuted(tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator)
    return tensor.reshape(-1)[order].view(tensor.shape)


def _coins(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(2, like.shape, generator=generator, dtype=torch.int8).bool()


def _shuffled(group: Group, draw: Draw, rows: Callable[[Tensor], int]) -> State:
    return {
        name: _among_kept(
            now.reshape(rows(now), -1), group.kept[name].reshape(rows(now), -1), draw(name)
        ).view(now.shape)
        for name, now in group.now.items()
    }


def _among_kept(values: Tensor, kept: Tensor, generator: torch.Generator) -> Tensor:
    """Permute the kept numbers of each row among themselves.

    Both orders begin with a row's kept places, as they stand and at random; the others follow as
    they stand.
    """
    keys = torch.rand(values.shape, generator=generator, dtype=torch.float64).masked_fill(~kept, 2)
    to = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    source = keys.argsort(dim=1, stable=True)
    return torch.empty_like(values).scatter_(1, to, values.gather(1, source))


def distance_of(these: State, those: State, group: Group) -> float:
    """Euclidean distance over the kept weights."""
    squares = (
        float((these[n].double() - those[n].double())[kept].square().sum())
        for n, kept in group.kept.items()
    )
    return math.sqrt(math.fsum(squares))
