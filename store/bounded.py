"""The Zarr codec of the preset ``bounded``; `weightcast.store.rounded` does the work."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON, parse_named_configuration

from weightcast.store.rounded import Float, decode, encode, usable_bound

NAME = "weightcast.bounded"


@dataclass(frozen=True)
class BoundedCodec(ArrayBytesCodec):
    """Chunk [parameters, steps] of float32 or float64, each number within `error`.

    Parameters
    ----------
    error : float
        Largest absolute error, in the array's own units.

    Raises
    ------
    ValueError
        If the bound is not a positive number.
    """

    is_fixed_size = False
    error: float

    def __post_init__(self) -> None:
        """Refuse a bound that cannot be: it may come from a damaged zarr.json."""
        if not usable_bound(self.error):
            raise ValueError(f"the error bound must be a positive number: got {self.error!r}")

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Codec from its entry in zarr.json."""
        _, settings = parse_named_configuration(data, NAME)
        return cls(**cast("dict[str, Any]", settings))

    def to_dict(self) -> dict[str, JSON]:
        """Entry for zarr.json."""
        return {"name": NAME, "configuration": {"error": self.error}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse arrays that are not [parameters, steps] of floats."""
        if len(shape) != 2 or dtype.to_native_dtype() not in (np.float32, np.float64):
            raise ValueError(f"{NAME} needs two axes of float32 or float64: got {shape}, {dtype}")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before the chunk is."""
        raise NotImplementedError

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        values = cast("Float", chunk_data.as_numpy_array())
        payload = await asyncio.to_thread(encode, values, float(self.error))
        return chunk_spec.prototype.buffer.from_bytes(payload)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        payload, dtype = chunk_data.to_bytes(), chunk_spec.dtype.to_native_dtype()
        shape = cast("tuple[int, int]", chunk_spec.shape)
        values = await asyncio.to_thread(decode, payload, shape, dtype, float(self.error))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)
