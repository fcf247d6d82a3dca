"""Magnitude pruning: which weights go, as a mask of those that stay.

::

    weights   .9 -.1  .4 -.2 | .3 -.8     fraction 0.5 of all six: the three smallest go
    mask       1   0   1   0 |  0   1     scope "layer" counts left and right of the bar alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from weightcast.apply.drawing import generator_of
from weightcast.apply.lowest import drop_lowest
from weightcast.apply.masks import Mask, checked_mask, named_tensors
from weightcast.apply.prunable import chosen_of, weights_of
from weightcast.recorder.checkpoints import State, save_checkpoint
from weightcast.store import History, UsageError
from weightcast.store.keyed import check_seed
from weightcast.store.output import refuse_existing, replacing

Scope = Literal["global", "layer"]


def prune(
    source: nn.Module | Mapping[str, torch.Tensor] | History | str | Path,
    fraction: float,
    *,
    scope: Scope = "global",
    mask: Mask | None = None,
    step: int | None = None,
    key: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> State:
    """Choose the weights of lowest magnitude to be pruned. Nothing is changed.

    Parameters
    ----------
    source : nn.Module, mapping of str to Tensor, History, str or Path
        A live model, its ``state_dict``, a history, or the path of a history (a folder or URL) or
        of a checkpoint (a file of ``torch.save`` or, by its suffix, safetensors).
    fraction : float
        Share of the weights that remain under `mask` that is pruned now, in [0, 1). The number of
        weights is rounded as by ``torch.nn.utils.prune``.
    scope : {"global", "layer"}
        Whether that share is of all tensors together, or of each alone.
    mask : mapping of str to bool Tensor, or nn.Module with such a ``state_dict``, optional
        What earlier rounds left. Weights that are pruned in it stay so, also in tensors that the
        globs leave out now.
    step : int, optional
        Of a history: a recorded step, by default the last.
    key : str, optional
        Where a checkpoint keeps the model's ``state_dict``, as for `rewind_checkpoint`.
    include, exclude : sequence of str
        Globs over names; of a tied tensor the first. By default weights of two or more dimensions
        are pruned, but those of norm layers; `include` can name others too.

    Returns
    -------
    dict of str to bool Tensor
        On the CPU, for each tensor that was pruned, in its shape: True where a weight stays.

    Raises
    ------
    UsageError
        If `fraction` or `scope` breaks its rule, the globs leave nothing, or `step` or `key` are
        given for what has none.
    StepNotRecordedError
        Naming the recorded steps on both sides of it.
    ShapeError
        If the mask is of another model.
    InputNotFoundError, FormatError
        If nothing is at the path, or something else.
    NonFiniteError
        If a weight that remains is NaN or infinite.

    Notes
    -----
    Counts are exact: of weights of the same magnitude those that come first are pruned first. With
    a high `fraction` a small tensor can lose all its weights in the global scope; its layer then
    passes on nothing but its bias.

    Global pruning of 20 % in each round is that of Frankle et al. 2020, "Linear Mode Connectivity
    and the Lottery Ticket Hypothesis". ``torch.nn.utils.prune`` puts ``weight_orig`` and a buffer
    in the place of each weight: histories, checkpoints and rewinds then no longer find it. A mask
    beside the model, and `hold`, leave its names as they are.

    A ``state_dict`` does not say what its tensors are: all of real numbers count as parameters,
    and norm layers with weights of two or more dimensions have to be left out by `exclude`.

    DTensors are gathered: every rank must call this, and gets the whole mask. Memory: two numbers
    for each weight, beside the weights.

    Examples
    --------
    >>> weights = {"fc.weight": torch.tensor([[0.9, -0.1], [0.4, -0.2]])}
    >>> mask = prune(weights, 0.5)
    >>> mask
    {'fc.weight': tensor([[ True, False],
            [ True, False]])}
    >>> prune(weights, 0.5, mask=mask)["fc.weight"].tolist()
    [[True, False], [False, False]]
    """
    _check(fraction, scope)
    weights = weights_of(source, step, key)
    before = checked_mask(mask, weights.shapes, weights.names, "parameters", f"of {weights.place}")
    chosen = [p.name for p in chosen_of(weights.parameters, include, exclude)]
    if not chosen:
        raise UsageError(
            f"include {list(include)} and exclude {list(exclude)} leave nothing of {weights.place} "
            "to prune: check the globs; without include, weights of two or more dimensions that "
            "are not norm parameters are pruned"
        )
    kept = {
        p.name: before[p.name].numpy(force=True).copy()
        if p.name in before
        else np.ones(p.shape, bool)
        for p in weights.parameters
        if p.name in before or p.name in chosen
    }
    for group in [chosen] if scope == "global" else [[name] for name in chosen]:
        drop_lowest(weights, group, kept, fraction)
    return {name: torch.from_numpy(stays) for name, stays in kept.items()}


def _check(fraction: float, scope: str) -> None:
    if not isinstance(fraction, Real) or not 0 <= fraction < 1:
        raise UsageError(
            f"a fraction to prune must be at least 0 and below 1: got {fraction!r:.60}; 0.2 "
            "prunes a fifth of the weights that remain"
        )
    if scope not in ("global", "layer"):
        raise UsageError(f"a scope is 'global' or 'layer': got {scope!r}")


def random_mask(like: Mask, seed: int) -> State:
    """Prune as many weights of each tensor as another mask does, but at random.

    Parameters
    ----------
    like : mapping of str to bool Tensor, or nn.Module with such a ``state_dict``
    seed : int
        What is drawn for a tensor depends on it and on the tensor's name alone.

    Returns
    -------
    dict of str to bool Tensor

    Raises
    ------
    UsageError
        If it is no mask, or no seed.

    Notes
    -----
    The random pruning that Frankle and Carbin 2019 compare with, at the same density layer by
    layer.

    Examples
    --------
    >>> drawn = random_mask({"w": torch.tensor([True, True, False, False])}, seed=1)
    >>> int(drawn["w"].sum())
    2
    """
    check_seed(seed)
    found = {}
    for name, stays in _bools(like).items():
        order = torch.randperm(stays.numel(), generator=generator_of(f"{seed}/{name}"))
        drawn = torch.zeros(stays.numel(), dtype=torch.bool)
        drawn[order[: int(stays.sum())]] = True
        found[name] = drawn.view(stays.shape)
    return found


def density(mask: Mask) -> float:
    """Share of a mask's weights that stay; 1 for a mask of no tensors.

    Raises
    ------
    UsageError
        If it is no mask.

    Examples
    --------
    >>> density({"w": torch.tensor([True, True, True, False])})
    0.75
    """
    tensors = _bools(mask).values()
    total = sum(t.numel() for t in tensors)
    return sum(int(t.sum()) for t in tensors) / total if total else 1.0


def save_mask(mask: Mask, path: str | Path, overwrite: bool = False) -> None:
    """Write a mask as a safetensors file; `load_mask` reads it.

    Parameters
    ----------
    mask : mapping of str to bool Tensor, or nn.Module with such a ``state_dict``
    path : str or Path
        Ending in ``.safetensors``.
    overwrite : bool
        Replace a file that stands there.

    Raises
    ------
    UsageError
        If it is no mask, or for another suffix.
    OutputExistsError
        If `path` is taken.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mask.safetensors"
    >>> save_mask({"w": torch.tensor([True, False])}, path)
    >>> path.stat().st_size > 0
    True
    """
    path = refuse_existing(path, overwrite=overwrite, kind="file")
    if path.suffix != ".safetensors":
        raise UsageError(f"a mask is written as a .safetensors file: got {str(path)!r}")
    notes = {"format": "pt", "kind": "mask", "weightcast": version("weightcast")}
    tensors = {name: t.cpu() for name, t in _bools(mask).items()}
    with replacing(path) as temporary:
        save_checkpoint(tensors, temporary, notes)


def _bools(mask: Mask) -> Mapping[str, torch.Tensor]:
    tensors = named_tensors(mask)
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.bool:
            got = getattr(tensor, "dtype", type(tensor).__name__)
            raise UsageError(f"a mask must be of bool tensors: that of {name!r} is {got}")
    return tensors
