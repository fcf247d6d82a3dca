"""Writing tensors of a recorded step into those of a model or checkpoint, in place.

::

    history at step K  --Chosen.read-->  values  --where the mask is True-->  tensors
                                         all is checked before the first is written
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from weightcast.apply.flattening import local
from weightcast.apply.masks import Mask, checked_mask
from weightcast.apply.matching import match, names_of
from weightcast.recorder.checkpoints import State, unwrapped
from weightcast.store import History, Parameter, ShapeError, UsageError
from weightcast.store.parameters import matches
from weightcast.store.reading import read

BLOCK = 1 << 20  # numbers that are compared at once


@dataclass(frozen=True)
class RewindReport:
    """What a rewind did.

    Attributes
    ----------
    step : int
        The recorded step whose weights were put back.
    weights, buffers : int
        Numbers put back, of parameters and of buffers.
    masked : int
        Numbers that stay, or are set to 0, for the mask.
    changed : float
        Largest absolute change of a weight, in its own units; of a buffer, if no weights were put
        back.
    left : int
        Tensors of the model that stay as they were: the history does not have them, or they were
        not asked for.
    error : float or None
        Absolute error bound of the history's weights; None if they are exact.
    rounding : float
        Largest absolute error of writing them: not 0 means that the model's dtypes are narrower
        than those that were recorded.
    """

    step: int
    weights: int
    buffers: int
    masked: int
    changed: float
    left: int
    error: float | None
    rounding: float


class Chosen:
    """What is to be put back: tensors of a history at a step, of each of its two arrays."""

    def __init__(
        self,
        history: History,
        step: int,
        buffers: bool,
        include: Sequence[str],
        exclude: Sequence[str],
    ) -> None:
        self.history, self.step = history, step
        self._row = history.row(step)
        tables = {"weights": history.parameters, "buffers": history.buffers if buffers else ()}
        every = [p for table in tables.values() for p in table]
        names = names_of(every, history.header.ties)
        self.names = {
            first: [name for name in those if matches(name, include, exclude)]
            for first, those in names.items()
        }
        self.tables = {
            array: [p for p in table if self.names[p.name]] for array, table in tables.items()
        }
        if not any(self.tables.values()):
            raise UsageError(
                f"include {list(include)} and exclude {list(exclude)} leave nothing of "
                f"{history.path} to put back: check the globs"
            )

    @property
    def all(self) -> list[Parameter]:
        """All of them."""
        return [p for table in self.tables.values() for p in table]

    def read(self) -> State:
        """The numbers of each, in its shape, in the history's dtype."""
        found = {}
        for array, table in self.tables.items():
            low = min((p.offset for p in table if p.size), default=0)
            high = max((p.stop for p in table if p.size), default=0)
            row = read(self.history.wide[array], (slice(low, high), self._row)) if high else ()
            values = torch.as_tensor(np.array(row))
            for p in table:
                part = values[p.offset - low : p.stop - low] if p.size else values[:0]
                found[p.name] = part.view(p.shape)
        return found


def put_back(
    chosen: Chosen,
    state: State,
    place: str | Path,
    mask: Mask | None,
    values: State | None = None,
    *,
    zero: bool = False,
) -> RewindReport:
    """Write what is chosen into the tensors of a model or checkpoint; all is checked first.

    Other `values` than those that were recorded may be given for it. With `zero` weights where the
    mask is False become 0, else they stay.
    """
    if zero and mask is None:
        raise UsageError("what is pruned can only be set to 0 with a mask: give one, or leave zero")
    history, wanted = chosen.history, chosen.all
    named = unwrapped(state, {p.name for p in wanted})
    pairs = list(match(wanted, named, place, history.path, chosen.names))
    targets = _distinct(pairs, place)
    masks = masks_of(mask, chosen)
    values = chosen.read() if values is None else values
    if zero:
        values |= {name: torch.where(kept, values[name], 0) for name, kept in masks.items()}
    staying = {} if zero else masks
    changes = {p.name: _write(tensor, values[p.name], staying.get(p.name)) for p, tensor in targets}
    rounding = np.max([r for _, r in changes.values()], initial=0.0).item()  # NaN stays
    # a buffer may count batches, which says nothing of how far the weights went
    weights = {p.name for p in chosen.tables["weights"]} or changes.keys()
    changed = np.max([c for name, (c, _) in changes.items() if name in weights], initial=0.0).item()
    counts = {
        array: sum(int(masks[p.name].sum()) if p.name in masks else p.size for p in table)
        for array, table in chosen.tables.items()
    }
    written = {id(tensor) for _, tensor in pairs}
    return RewindReport(
        step=chosen.step,
        **counts,
        masked=sum(p.size for p in wanted) - sum(counts.values()),
        changed=changed,
        left=sum(id(tensor) not in written for tensor in state.values()),
        error=history.header.error,
        rounding=rounding,
    )


def _distinct(
    pairs: Iterable[tuple[Parameter, torch.Tensor]], place: object
) -> list[tuple[Parameter, torch.Tensor]]:
    """Each tensor once: a tied one has several names.

    Raises
    ------
    ShapeError
        If what the history has as two is one tensor there.
    """
    found: dict[object, tuple[Parameter, torch.Tensor]] = {}
    for p, tensor in pairs:
        held = local(tensor)
        memory = (held.data_ptr(), held.shape, held.stride()) if held.numel() else id(tensor)
        other, _ = found.setdefault(memory, (p, tensor))
        if other is not p:
            raise ShapeError(
                f"what the history has as two tensors must be two: {other.name!r} and {p.name!r} "
                f"are tied in {place}: leave one out (exclude)"
            )
    return list(found.values())


def masks_of(mask: Mask | None, chosen: Chosen) -> State:
    """The masks by the names that the history has for their tensors.

    Raises
    ------
    ShapeError
        If a name, a shape or a dtype is wrong.
    """
    shapes = {p.name: p.shape for p in chosen.all}
    among = f"chosen of {chosen.history.path}"
    return checked_mask(mask, shapes, chosen.names, "tensors that are put back", among)


@torch.no_grad()
def _write(
    tensor: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> tuple[float, float]:
    """Write values where the mask is True; the largest change, and the largest error of writing."""
    into = local(tensor)
    before = into.cpu()
    new = part_of(values, tensor)
    if mask is not None:
        new = torch.where(part_of(mask, tensor), new, before)  # in the wider dtype of the two
    written = new.to(into.dtype)
    found = _largest(written, before), _largest(written, new)
    into.copy_(written)
    return found


def part_of(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor."""
    if not isinstance(like, DTensor):
        return whole
    # without a source rank nothing is sent: each cuts out its own part
    placed = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return placed.to_local().cpu()


def _largest(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference; NaN if any is."""
    kinds = {a.dtype, b.dtype}
    single = all(d.is_floating_point for d in kinds) and torch.float64 not in kinds
    wide = torch.float32 if single else torch.float64
    parts = zip(a.reshape(-1).split(BLOCK), b.reshape(-1).split(BLOCK), strict=True)
    found = [float((x.to(wide) - y.to(wide)).abs().max()) for x, y in parts if x.numel()]
    return float(np.max(found, initial=0.0))
