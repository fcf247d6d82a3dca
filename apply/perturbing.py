"""Perturbations of a recorded state: what of a step training needs.

::

    recorded step K  --perturbed, kept weights among themselves-->  model
    signs            sign of K, magnitude drawn from those of the first recorded step
    magnitudes       magnitude of K, sign drawn anew
    shuffle-filter   permuted within each output filter (first dimension)
    shuffle-layer    permuted within each tensor
    shuffle-global   permuted across all tensors
    noise            K + normal noise of the size of the change so far
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from weightcast.apply.masks import Mask
from weightcast.apply.matching import MODEL
from weightcast.apply.perturbations import KINDS, Group, distance_of, require_finite, rule_of
from weightcast.apply.prunable import chosen_of
from weightcast.apply.putting import Chosen, masks_of, put_back
from weightcast.apply.rewinding import tensors_of
from weightcast.store import History, UsageError

__all__ = ["KINDS", "PerturbReport", "perturb"]


@dataclass(frozen=True)
class PerturbReport:
    """What a perturbation did.

    Attributes
    ----------
    step : int
        The recorded step that was perturbed.
    start : int
        The first recorded step, from which initial magnitudes and the change so far are taken.
    kind : str
    tensors : tuple of str
        Those that were perturbed, by their names in the history.
    weights : int
        How many weights those are, without those that the mask leaves out.
    masked : int
        Weights that are 0 for the mask.
    distance : float
        Euclidean distance of the perturbed weights from those that were recorded.
    relative : float or None
        The same as a multiple of what these weights moved from `start` to `step`; None if they did
        not move.
    left : int
        Tensors of the model that the history does not have.
    """

    step: int
    start: int
    kind: str
    tensors: tuple[str, ...]
    weights: int
    masked: int
    distance: float
    relative: float | None
    left: int


def perturb(
    model: nn.Module,
    history: History | str | Path,
    step: int,
    kind: str,
    *,
    seed: int,
    scale: float = 1.0,
    mask: Mask | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> PerturbReport:
    """Put a recorded step into a live model, with its weights perturbed.

    Parameters
    ----------
    model : nn.Module
        Written in place, as by `rewind`: all parameters and buffers that were recorded.
    history : History, str or Path
    step : int
        A recorded step.
    kind : str
        One of `KINDS`.
    seed : int
        Of all that is drawn, on the CPU and for each tensor by its name: the same for every device,
        and whichever other tensors are perturbed.
    scale : float
        Of "noise": its standard deviation is this times that of the tensor's change since the first
        recorded step.
    mask : mapping of str to bool Tensor, or nn.Module with such a ``state_dict``, optional
        As for `rewind`, but weights where it is False become 0. The others are perturbed among
        themselves: only they are permuted, and measured for noise.
    include, exclude : sequence of str
        Globs over the names in the history. By default tensors of kind "weight" with two or more
        dimensions are perturbed; `include` names others too. All else comes back as recorded.

    Returns
    -------
    PerturbReport

    Raises
    ------
    UsageError
        If the kind, the seed or the scale is none, or the globs leave nothing.
    StepNotRecordedError
        Naming the recorded steps on both sides of it.
    ShapeError
        If names, shapes or dtypes of model or mask are not the history's.
    NonFiniteError
        If a weight to perturb is NaN or infinite.
    FormatError
        If the history is damaged.

    Notes
    -----
    After Frankle, Schwab and Morcos 2020 (ICLR, arXiv 2002.10365), who perturb the weights of
    convolutions and linear layers. Biases and norm parameters are few and begin as constants: a
    magnitude drawn from those would be that constant. "signs" draws magnitudes without replacement
    from all those of the tensor at the first recorded step; a weight that is 0 has the sign of
    its bit. On an error nothing has changed. Memory: three snapshots; "shuffle-global" some 40
    bytes a weight beside them.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.recorder import Recorder
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with Recorder(model, path).attach(optimizer):
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> report = perturb(model, path, 1, "shuffle-layer", seed=0)
    >>> report.tensors, report.weights
    (('weight',), 2)
    """
    rule = rule_of(kind, seed, scale)
    history = history if isinstance(history, History) else History(history)
    named = tensors_of(model)
    chosen = Chosen(history, step, True, (), ())
    first = Chosen(history, int(history.steps[0]), False, (), ())
    wanted = chosen_of(history.parameters, include, exclude)
    if not wanted:
        raise UsageError(
            f"include {list(include)} and exclude {list(exclude)} leave nothing of {history.path} "
            "to perturb: check the globs; without include, tensors of two or more dimensions that "
            "are not norm parameters are perturbed"
        )
    masks = masks_of(mask, chosen)
    values = chosen.read()
    group = Group.of(wanted, values, first.read(), masks)
    for at, state in ((step, group.now), (first.step, group.start)):
        require_finite(state, f"step {at} of {history.path}")
    new = rule(group)
    values |= new
    for name, kept in masks.items():
        values[name] = torch.where(kept, values[name], 0)
    written = put_back(chosen, named, MODEL, None, values)
    distance, change = (
        distance_of(new, group.now, group),
        distance_of(group.now, group.start, group),
    )
    return PerturbReport(
        step=step,
        start=first.step,
        kind=kind,
        tensors=tuple(new),
        weights=sum(int(kept.sum()) for kept in group.kept.values()),
        masked=sum(int((~kept).sum()) for kept in masks.values()),
        distance=distance,
        relative=distance / change if change else None,
        left=written.left,
    )
