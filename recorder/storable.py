"""Which tensors can be stored exactly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from weightcast.store import RecordingError

_LARGEST_EXACT_INTEGER = 2**53  # of float64, in which buffers are stored


def require_storable(
    parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]
) -> None:
    """Refuse what a history cannot give back exactly.

    Raises
    ------
    RecordingError
        If a parameter is lazy, has no values, is sparse or is not a real floating-point number, or
        a buffer does not fit into float64. The message names it.
    """
    for name, p in parameters.items():
        if isinstance(p, (UninitializedParameter, UninitializedBuffer)):
            raise RecordingError(
                f"parameters must have their shape to be recorded: {name!r} is lazy: run one batch "
                "through the model first"
            )
        if p.is_meta:
            raise RecordingError(
                f"parameters must have values to be recorded: {name!r} is on the meta device: load "
                "or initialise the model first"
            )
        if not p.dtype.is_floating_point or p.layout is not torch.strided:
            kind = p.dtype if p.layout is torch.strided else p.layout
            raise RecordingError(
                "parameters must be real floating-point numbers, densely stored, to be recorded: "
                f"{name!r} is {kind}: leave it out with exclude"
            )
    for name, b in buffers.items():
        if not _fits_float64(b):
            raise RecordingError(
                f"buffers must fit into float64 exactly to be recorded: {name!r} ({b.dtype}) does "
                "not: leave it out with exclude"
            )


def stored_dtype(parameters: Mapping[str, torch.Tensor]) -> torch.dtype:
    """float64 if any parameter is, else float32; every other dtype fits into them exactly."""
    wide = any(p.dtype == torch.float64 for p in parameters.values())
    return torch.float64 if wide else torch.float32


def require_fitting(parameters: Mapping[str, torch.Tensor], stored: torch.dtype) -> None:
    """Refuse parameters that have become wider than what they are stored in.

    Raises
    ------
    RecordingError
    """
    for name, p in parameters.items():
        if torch.promote_types(p.dtype, stored) != stored:
            raise RecordingError(
                f"parameters must fit into {stored} exactly, as when the recording began: "
                f"{name!r} is now {p.dtype}: convert the model before the recorder is made, or "
                "record it into a new history"
            )


def _fits_float64(buffer: torch.Tensor) -> bool:
    if buffer.dtype.is_complex or buffer.layout is not torch.strided:
        return False
    return (
        buffer.dtype.is_floating_point
        or buffer.numel() == 0
        or buffer.dtype == torch.bool
        or float(buffer.double().abs().max()) < _LARGEST_EXACT_INTEGER
    )
