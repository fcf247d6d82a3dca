"""Checkpoints to be changed, and which of their tensors are which of a history's.

::

    in.pt --OpenCheckpoint--> document ----------------------------------save--> out.pt
                              its model's tensors --match-- the history's parameters
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from weightcast.recorder.checkpoints import (
    State,
    find_state_dict,
    load_checkpoint,
    save_checkpoint,
)
from weightcast.store import Parameter, ShapeError, UsageError
from weightcast.store.output import replacing


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint in memory, of which some tensors are about to change.

    Attributes
    ----------
    path, output : str or Path
        Where it is from, and where it goes.
    document : any
        All that it holds.
    notes : dict of str to str, or None
        What a safetensors file says of itself.
    state : dict of str to Tensor
        The model's tensors in it.
    """

    path: str | Path
    output: Path
    document: Any
    notes: dict[str, str] | None
    state: State

    @classmethod
    def load(cls, path: str | Path, output: Path, key: str | None) -> Self:
        """Read a checkpoint file, without running any code in it.

        Raises
        ------
        FormatError
            If it is no checkpoint.
        UsageError
            If it has not the key, or `output` cannot hold it.
        """
        document, notes = load_checkpoint(Path(path))
        state = find_state_dict(document, key, path)
        if output.suffix == ".safetensors" and state.keys() != document.keys():
            raise UsageError(
                f"a safetensors file holds tensors only, and {path} has more: give another "
                f"suffix than that of {output}"
            )
        return cls(path, output, document, notes, state)

    def save(self) -> None:
        """Write it, with what its tensors are now."""
        with replacing(self.output) as temporary:
            save_checkpoint(self.document, temporary, self.notes)


def names_of(parameters: Iterable[Parameter], ties: Mapping[str, str]) -> dict[str, list[str]]:
    """All names of each parameter's tensor, its own first.

    Examples
    --------
    >>> names_of([Parameter("w", (2,), "float32", 0, "weight")], {"tied": "w", "other": "v"})
    {'w': ['w', 'tied']}
    """
    names = {p.name: [p.name] for p in parameters}
    for other, first in ties.items():
        if first in names and other not in names:
            names[first].append(other)
    return names


def match(
    wanted: Iterable[Parameter],
    named: Mapping[str, torch.Tensor],
    place: object,
    history: object,
    names: Mapping[str, Sequence[str]],
) -> Iterator[tuple[Parameter, torch.Tensor]]:
    """Pair tensors of a history with those of the same names in a model or checkpoint.

    Parameters
    ----------
    wanted : iterable of Parameter
    named : mapping of str to Tensor
    place, history : object
        Where the tensors are, and where the parameters: for the messages.
    names : mapping of str to sequence of str
        All that each parameter's tensor is called, see `names_of`. One of them has to be there; all
        that are there are paired.

    Raises
    ------
    ShapeError
        If one is missing, has another shape, or cannot be written to.
    """
    for p in wanted:
        there = [name for name in names[p.name] if name in named]
        if not there:
            have = ", ".join(list(named)[:5])
            raise ShapeError(
                f"{_both(place)} and history must hold the same parameters: {place} has no "
                f"{p.name!r}; it has {have}, ..."
            )
        for name in there:
            _require_fitting(p, name, named[name], place, history)
            yield p, named[name]


def _require_fitting(
    p: Parameter, name: str, tensor: torch.Tensor, place: object, history: object
) -> None:
    both = _both(place)
    if tuple(tensor.shape) != p.shape:
        raise ShapeError(
            f"{both} and history must agree in shape: {name!r} is {list(tensor.shape)} in {place} "
            f"and {list(p.shape)} in {history}"
        )
    if p.kind != "buffer" and not tensor.is_floating_point():
        raise ShapeError(
            f"{both} and history must agree in what is a weight: {name!r} is {tensor.dtype} in "
            f"{place}, and a floating-point number in {history}"
        )
    strange = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta
    # an expanded tensor has one place in memory for several of its numbers
    if strange or any(n > 1 and not s for n, s in zip(tensor.shape, tensor.stride(), strict=True)):
        raise ShapeError(
            f"{both} must hold plain tensors, with a place in memory for each number: {name!r} in "
            f"{place} is {tensor.layout}, on {tensor.device}"
        )


def _both(place: object) -> str:
    return "model" if place == MODEL else "checkpoint"


MODEL = "the model"
