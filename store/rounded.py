"""Chunks of numbers to within an absolute error, checked as they are written.

A full chunk is rounded to multiples of a step a little under twice the bound. Along time, each
change is predicted from the change before, and what is left fits a byte and mostly repeats::

    value  0.50000  0.50021  0.50040  0.50061     bound 1e-5, step 1.96875e-5
    q        25397    25407    25417    25428     rounded to the step
    change               10       10       11
    left over            10        1        2     after 9/10 of the change before

Numbers that the step cannot keep within the bound, for want of digits, are kept exactly. What does
not fit this at all (a chunk that is still filling up, infinities, huge numbers) is stored lossless.

A chunk, little-endian::

    mode u8         0 lossless, 1 rounded
    zeros 7 bytes
    bound f64
    lossless        the chunk in Blosc
    rounded         itemsize of "left over" u8, zero u8, tap i16 (the 9/10 above, in 64ths)
                    filled rows u32, exact numbers u32, smallest q of the first column i32
                    four sections, each its length u32 and Blosc: first column u32 [rows],
                    left over u8, u16 or u32 [rows, steps - 1], places u32 and values of
                    the exact numbers

The rounding depends on the bound and the number alone. So a number that was rounded once stays
what it is, however often a history is copied and chunked anew with the same bound.
"""

from __future__ import annotations

import math
import struct
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numcodecs.blosc import Blosc

from weightcast.store.prediction import Int, left_over, retraced, row_blocks
from weightcast.store.transpose import parameter_major

Float = npt.NDArray[np.floating[Any]]

LOSSLESS, ROUNDED = 0, 1
_START = struct.Struct("<B7xd")
_ROUNDED = struct.Struct("<BxhIIi")
_LENGTH = struct.Struct("<I")
_COLUMNS = 8  # as `parameter_major` takes them
_MOST_EXACT = 1 / 16  # of the numbers of a chunk; with more, lossless is smaller


def usable_bound(error: object) -> bool:
    """Whether an error bound is a positive number with room for twice it, and its inverse."""
    if isinstance(error, bool) or not isinstance(error, (int, float)):
        return False
    return math.isfinite(error) and 1e-300 <= error <= 1e300


def encode(values: Float, error: float) -> bytes:
    """Bytes of a chunk whose numbers decode to within `error`; this is checked by decoding them.

    Parameters
    ----------
    values : float32 or float64 array, shape (p, n)
        Rows that are all NaN, at the end, are the padding of the last chunk.
    error : float
        Absolute error bound.
    """
    values = np.ascontiguousarray(values)
    rows = _filled_rows(values)
    with np.errstate(all="ignore"):  # an overflow is noticed in what it leaves
        payload = _rounded(values, rows, error) if rows else None
    if payload is not None:
        return payload
    # Lossless as the preset fast does it.
    body = Blosc("lz4", 3, Blosc.SHUFFLE, typesize=values.dtype.itemsize).encode(values)
    return _START.pack(LOSSLESS, error) + cast("bytes", body)


def decode(
    payload: bytes,
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    error: float,
    out: Float | None = None,
) -> Float:
    """Chunk that `encode` made; `out`, of that shape and dtype, may be given to be filled.

    Raises
    ------
    ValueError, RuntimeError
        If the payload is damaged, or was made with another bound.
    """
    if len(payload) < _START.size:
        raise ValueError(f"a chunk of {len(payload)} bytes is cut off")
    mode, bound = _START.unpack_from(payload)
    if bound != error:
        raise ValueError(f"a chunk has the error bound {bound!r}, its array has {error!r}")
    dtype = np.dtype(dtype)
    values = np.empty(shape, dtype) if out is None else out
    if mode == LOSSLESS:
        _unpack(payload[_START.size :], values)
        return values
    if mode != ROUNDED:
        raise ValueError(f"a chunk has mode {mode}, which is neither lossless nor rounded")
    with np.errstate(all="ignore"):
        return _decode_rounded(payload, values, error)


def _rounded(values: Float, rows: int, error: float) -> bytes | None:
    """Rounded chunk that decodes to within the bound, or None where rounding is no use."""
    q = _quantised(values[:rows], _step(error))
    if q is None:
        return None
    tap, left = left_over(q)
    base = q[:, 0].min()
    sections = [_pack((q[:, 0] - base).view(np.uint32)), _pack(left)]

    def payload(places: npt.NDArray[np.intp]) -> bytes:
        exact = [_pack(places.astype(np.uint32)), _pack(values.reshape(-1)[places])]
        head = _ROUNDED.pack(left.dtype.itemsize, tap, rows, len(places), base)
        parts = [_LENGTH.pack(len(part)) + part for part in sections + exact]
        return b"".join([_START.pack(ROUNDED, error), head, *parts])

    written = payload(np.array([], np.intp))
    wrong = _outside(written, values, rows, error)
    if len(wrong) > _MOST_EXACT * values.size:
        return None
    if len(wrong):
        written = payload(wrong)
        wrong = _outside(written, values, rows, error)
    return None if len(wrong) else written


def _outside(payload: bytes, values: Float, rows: int, error: float) -> npt.NDArray[np.intp]:
    """Flat places of numbers that do not decode to within the bound."""
    decoded = decode(payload, cast("tuple[int, int]", values.shape), values.dtype, error)
    # The difference is rounded too, and must not pass for one within the bound.
    limit = values.dtype.type(min(error * (1 - 2**-20), float(np.finfo(values.dtype).max)))
    wrong = [
        at * values.shape[1] + np.flatnonzero(~(np.abs(decoded[part] - values[part]) <= limit))
        for at, part in row_blocks(rows)
    ]
    return np.concatenate(wrong)


def _quantised(values: Float, step: float) -> Int | None:
    """Which multiples of the step are nearest, or None if one is too large."""
    q = np.empty(values.shape, np.int32)
    for _, part in row_blocks(len(values)):
        exact = np.multiply(values[part], 1 / step, dtype=np.float64)
        np.rint(exact, out=exact)
        if not -(2**30) < exact.min() <= exact.max() < 2**30:  # so that a change fits int32
            return None
        q[part] = exact
    return q


def _decode_rounded(payload: bytes, values: Float, error: float) -> Float:
    at = _START.size + _ROUNDED.size
    if len(payload) < at:
        raise ValueError(f"a chunk of {len(payload)} bytes is cut off")
    size, tap, rows, exact, base = _ROUNDED.unpack_from(payload, _START.size)
    shape, steps = values.shape, values.shape[1]
    if size not in (1, 2, 4) or rows > shape[0] or exact > rows * steps:
        raise ValueError(f"a chunk of shape {shape} says {rows} rows of {size} bytes, {exact} kept")
    sections = []
    for _ in range(4):
        length = int.from_bytes(payload[at : at + _LENGTH.size], "little")
        at += _LENGTH.size + length
        sections.append(payload[at - length : at])
    if at != len(payload):
        raise ValueError(f"a chunk of {len(payload)} bytes should have {at}")
    first = _unpack(sections[0], np.empty(rows, np.uint32)).view(np.int32) + np.int32(base)
    left = _unpack(sections[1], np.empty((rows, steps - 1), f"u{size}"))
    places = _unpack(sections[2], np.empty(exact, np.uint32))
    values[rows:] = np.nan
    columns = retraced(first, left, tap)
    some = np.empty((_COLUMNS, rows), values.dtype)  # stays in the cache until it is transposed
    for start in range(0, steps, _COLUMNS):
        part = some[: steps - start]
        for column, q in zip(part, columns, strict=False):
            np.multiply(q, _step(error), out=column, dtype=np.float64, casting="same_kind")
        parameter_major(part, values[:rows, start : start + _COLUMNS])
    if exact:
        if places.max() >= rows * steps:
            raise ValueError("a chunk has exact numbers past its end")
        values.reshape(-1)[places] = _unpack(sections[3], np.empty(exact, values.dtype))
    return values


def _step(error: float) -> float:
    """A little under twice the bound: the rest is for the rounding to float32 after it."""
    return error * (63 / 32)


def _filled_rows(values: Float) -> int:
    """Rows before the padding; 0 if what looks like padding is not, to every bit."""
    bits = values.view(f"u{values.dtype.itemsize}")
    fill = np.array(np.nan, values.dtype).view(bits.dtype)
    empty = bits[:, 0] == fill
    rows = len(values) - int(np.argmin(empty[::-1]))
    return rows if (bits[rows:] == fill).all() else 0


def _pack(numbers: npt.NDArray[Any]) -> bytes:
    """Blosc in one block, so that zstd sees each plane of bytes as a whole."""
    numbers = np.ascontiguousarray(numbers)
    if not numbers.nbytes:
        return b""
    codec = Blosc("zstd", 1, Blosc.SHUFFLE, numbers.nbytes, typesize=numbers.dtype.itemsize)
    return cast("bytes", codec.encode(numbers))


def _unpack(packed: bytes, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Fill an array from a Blosc section, which must hold as many bytes as it has."""
    if not packed and not out.size:
        return out
    sizes = struct.unpack_from("<III", packed.ljust(16, b"\0"), 4)
    if sizes[0] != out.nbytes or sizes[2] != len(packed) or not out.nbytes:
        raise ValueError(
            f"a section of {len(packed)} bytes should have {sizes[2]}, and hold {out.nbytes}: "
            f"it holds {sizes[0]}"
        )
    Blosc().decode(packed, out)
    return out
