"""Codec presets of a history's wide arrays: two lossless ones, and one with an error bound.

Every chunk ends with a CRC32C checksum, whatever the preset. ``python benchmarks/codecs.py``
measures on real histories what led to these settings.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.codecs.numcodecs import PCodec
from zarr.errors import ZarrUserWarning
from zarr.registry import register_codec

from weightcast.store.bounded import BoundedCodec
from weightcast.store.errors import UsageError
from weightcast.store.rounded import usable_bound

register_codec("weightcast.bounded", BoundedCodec)  # the entry point is for those without us

PRESETS = ("fast", "compact", "bounded")

# Zarr says this at each opening of an array with PCodec, to somebody who did not choose it.
warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr", ZarrUserWarning)


def check_preset(preset: object, error: object = None) -> str:
    """Return the name of a codec preset, or refuse it, or the error bound that comes with it.

    Parameters
    ----------
    preset : {"fast", "compact", "bounded"}
    error : float, optional
        Largest absolute error of any stored weight; ``bounded`` needs it, no other takes it.

    Raises
    ------
    UsageError
        If there is no such preset, or the error bound does not go with it.

    Examples
    --------
    >>> check_preset("fast"), check_preset("bounded", 1e-6)
    ('fast', 'bounded')
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UsageError(f"preset must be one of {', '.join(PRESETS)}: got {preset!r}")
    if preset != "bounded":
        if error is not None:
            raise UsageError(
                f"only the preset bounded takes an error bound, {preset} is lossless: "
                f"got error {error!r}"
            )
    elif error is None:
        raise UsageError(
            "the preset bounded needs an absolute error bound, such as 1e-6: give one, or record "
            "with fast and run `weightcast compact --preset bounded`, which takes 1e-3 of the "
            "median change"
        )
    elif not usable_bound(error):
        raise UsageError(
            f"an error bound must be a positive number, from 1e-300 to 1e300: got {error!r}"
        )
    return preset


def wide_codecs(preset: str, error: float | None, dtype: npt.DTypeLike) -> dict[str, Any]:
    """Keyword arguments of ``zarr.Group.create_array`` that make an array of a preset.

    Parameters
    ----------
    preset : {"fast", "compact", "bounded"}
    error : float or None
        Absolute error bound, for ``bounded`` only.
    dtype : float32 or float64
        Of the array.

    Raises
    ------
    UsageError
        If preset and error do not go together.

    Examples
    --------
    >>> list(wide_codecs("fast", None, "float32"))
    ['compressors']
    >>> wide_codecs("bounded", 1e-6, "float32")["serializer"]
    BoundedCodec(error=1e-06)
    """
    check_preset(preset, error)
    if error is not None:
        return {"serializer": BoundedCodec(float(error)), "compressors": [Crc32cCodec()]}
    if preset == "compact":
        # Mode "auto" finds what float16 and bfloat16 leave unused. Pages of 512 trajectories have
        # tables of their own; shorter ones are smaller by 1 % and slower, level 8 is 2 % and half
        # as fast.
        serializer = PCodec(level=6, mode_spec="auto", delta_spec="auto", equal_pages_up_to=32768)
        return {"serializer": serializer, "compressors": [Crc32cCodec()]}
    # Shuffled by bytes, not bits: of a trajectory in order, LZ4 makes less, and twice as fast.
    size = np.dtype(dtype).itemsize
    blosc = BloscCodec(cname="lz4", clevel=3, shuffle="shuffle", typesize=size)
    return {"compressors": [blosc, Crc32cCodec()]}
