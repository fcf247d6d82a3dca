"""What checkpoints hold: their tensors, and which of them are parameters and which buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from weightcast.recorder.checkpoints import (
    State,
    find_state_dict,
    load_checkpoint,
    plain_names,
    read_json,
)
from weightcast.recorder.folders import Found
from weightcast.recorder.numbering import counts_in
from weightcast.store import FormatError, ParameterTable, RecordingError, ShapeError, UsageError
from weightcast.store.parameters import Kind, matches

_BUFFER_LEAVES = ("running_mean", "running_var", "num_batches_tracked")
_TRAINER_STATE = "trainer_state.json"  # of Transformers


@dataclass(frozen=True)
class Contents:
    """What one checkpoint holds, without the numbers themselves.

    Attributes
    ----------
    tensors : dict of str to (shape, dtype)
        By the plain model's names.
    ties : dict of str to str
        Names that are the same tensor as an earlier one.
    counts : dict of str to int
        What it says of its step or epoch.
    prefix : str
        What a wrapper had put before all names.
    """

    tensors: dict[str, tuple[tuple[int, ...], torch.dtype]]
    ties: dict[str, str]
    counts: dict[str, int]
    prefix: str


def read_model(path: Path, key: str | None) -> tuple[State, str, dict[str, int]]:
    """The model's tensors in a checkpoint, the prefix their names had, and the file's counts.

    The tensors are read as they are used, where the file's form allows.
    """
    document, notes = load_checkpoint(path, lazy=True)
    state = find_state_dict(document, key, path)
    # the entries of a bare state_dict are tensors of the model, whatever they are called
    beside = {k: v for k, v in document.items() if k not in state} | (notes or {})
    plain, prefix = plain_names(state)
    return plain, prefix, counts_in(beside)


def look_into(
    found: Found, key: str | None, include: Sequence[str], exclude: Sequence[str]
) -> Contents:
    """Find out what a checkpoint holds.

    Raises
    ------
    FormatError
        If it is no checkpoint.
    UsageError
        If the globs leave none of its tensors.
    RecordingError
        If one of them cannot be stored.
    """
    state, prefix, counts = read_model(found.path, key)
    chosen = {name: t for name, t in state.items() if matches(name, include, exclude)}
    if not chosen:
        raise UsageError(
            f"include {list(include)} and exclude {list(exclude)} leave none of the {len(state)} "
            f"tensors of {found.label}: check the globs; there are {', '.join(list(state)[:5])}"
        )
    for name, tensor in chosen.items():
        _require_plain(name, tensor, found.label)
    if found.is_folder and (found.path.parent / _TRAINER_STATE).is_file():
        counts |= counts_in(read_json(found.path.parent / _TRAINER_STATE))
    tensors = {name: (tuple(t.shape), t.dtype) for name, t in chosen.items()}
    return Contents(tensors, _tied(chosen), counts, prefix)


def _require_plain(name: str, tensor: torch.Tensor, label: str) -> None:
    plain = (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.is_complex())
    )
    if not plain:
        raise RecordingError(
            f"a history holds plain tensors of real numbers: {name!r} in {label} is "
            f"{type(tensor).__name__} of {tensor.dtype}, {tensor.layout}, on {tensor.device}: "
            "leave it out with --exclude"
        )


def _tied(state: State) -> dict[str, str]:
    """Names of the very memory that an earlier name has."""
    first: dict[object, str] = {}
    tied = {}
    for name, t in state.items():
        place = (t.untyped_storage().data_ptr(), t.storage_offset(), t.shape, t.stride(), t.dtype)
        if t.numel() and first.setdefault(place, name) != name:
            tied[name] = first[place]
    return tied


def require_same(contents: Sequence[Contents], labels: Sequence[str]) -> None:
    """Check that all checkpoints hold the same names and shapes.

    Raises
    ------
    ShapeError
        Naming the checkpoint and the first difference.
    """
    first = contents[0].tensors
    for other, label in zip(contents[1:], labels[1:], strict=True):
        rule = f"all checkpoints must hold the same tensors: {label} has"
        for name, (shape, _) in first.items():
            if name not in other.tensors:
                raise ShapeError(f"{rule} no {name!r}, which {labels[0]} has")
            if other.tensors[name][0] != shape:
                raise ShapeError(
                    f"{rule} {name!r} of shape {list(other.tensors[name][0])}, it is "
                    f"{list(shape)} in {labels[0]}"
                )
        more = next((name for name in other.tensors if name not in first), None)
        if more is not None:
            raise ShapeError(
                f"{rule} {more!r}, which {labels[0]} has not: leave it out with --exclude"
            )


def widest(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """The dtype that holds numbers of all of these exactly, integers up to 2**53.

    Examples
    --------
    >>> widest([torch.float16, torch.bfloat16]), widest([torch.bool, torch.bool])
    (torch.float32, torch.bool)
    """
    if len(set(dtypes)) == 1:
        return dtypes[0]
    floating = [d for d in dtypes if d.is_floating_point]
    if not floating:
        return torch.int64
    mixed = len(floating) < len(dtypes) or torch.float64 in floating
    return torch.float64 if mixed else torch.float32


def lay_out(
    contents: Sequence[Contents], tied: dict[str, str], buffers: Sequence[str]
) -> tuple[ParameterTable, ParameterTable]:
    """Tables of the parameters and of the buffers, in the order of the first checkpoint.

    A state_dict does not say which is which. Buffers are what is not floating-point, what is
    called ``running_mean``, ``running_var`` or ``num_batches_tracked``, and what a glob matches.

    Raises
    ------
    FormatError
        If no parameter is left.
    """
    rows: list[tuple[str, tuple[int, ...], str, Kind]] = []
    for name, (shape, _) in contents[0].tensors.items():
        if name in tied:
            continue
        dtypes = [c.tensors[name][1] for c in contents]
        kind = "buffer" if _is_buffer(name, dtypes, buffers) else _kind(name, contents[0])
        rows.append((name, shape, str(widest(dtypes)).removeprefix("torch."), kind))
    parameters = ParameterTable.of(row for row in rows if row[3] != "buffer")
    if not parameters.size:
        raise FormatError(
            f"a history needs parameters: all {len(rows)} tensors are taken for buffers or empty"
        )
    return parameters, ParameterTable.of(row for row in rows if row[3] == "buffer")


def _is_buffer(name: str, dtypes: Sequence[torch.dtype], globs: Sequence[str]) -> bool:
    leaf, floating = name.rpartition(".")[2], all(d.is_floating_point for d in dtypes)
    return leaf in _BUFFER_LEAVES or not floating or bool(globs and matches(name, globs))


def _kind(name: str, contents: Contents) -> Kind:
    """Normalisation layers are those with running statistics, or a weight of one dimension."""
    owner, dot, leaf = name.rpartition(".")
    shape = contents.tensors.get(f"{owner}{dot}weight", ((), None))[0]
    if (
        len(shape) == 1
        or f"{owner}{dot}running_mean" in contents.tensors
        or "norm" in owner.rpartition(".")[2].lower()
    ):
        return "norm"
    return "bias" if "bias" in leaf else "weight"
