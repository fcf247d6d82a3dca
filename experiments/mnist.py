"""MNIST, and what comes in the same files: IDX, gzip or not."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from weightcast.store import FormatError, InputNotFoundError

Part = Literal["train", "t10k"]
Images = tuple[torch.Tensor, torch.Tensor]

_GZIP = b"\x1f\x8b"
_BYTES = 8  # IDX's code of unsigned bytes
_MOST = 1 << 30  # bytes of numbers; MNIST's training images are 47 million


def load_images(folder: str | Path, part: Part) -> Images:
    """Images and labels of the training or the test part.

    Parameters
    ----------
    folder : str or Path
        Where ``train-images-idx3-ubyte`` and its like are, with or without ``.gz``.
    part : {"train", "t10k"}

    Returns
    -------
    x : float32 Tensor, shape (N, 1, 28, 28)
        From 0 to 1.
    y : int64 Tensor, shape (N,)
        From 0 to 9.

    Raises
    ------
    InputNotFoundError
        If a file is missing.
    FormatError
        If one is damaged, or they are not images and labels of one set.
    """
    images, labels = (find(folder, name) for name in names(part))
    x, y = read_idx(images), read_idx(labels)
    if x.shape[1:] != (28, 28) or y.shape != x.shape[:1] or not len(y) or y.max() > 9:
        raise FormatError(
            f"images must be [N, 28, 28] and labels [N] from 0 to 9: got {x.shape} in {images} and "
            f"{y.shape} in {labels}"
        )
    pixels = torch.from_numpy(x).to(torch.float32).div_(255)
    return pixels[:, None], torch.from_numpy(y).to(torch.int64)


def names(part: Part) -> tuple[str, str]:
    """Names of a part's two files, without ``.gz``."""
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def find(folder: str | Path, name: str) -> Path:
    """The file of that name in a folder, plain or gzip; `InputNotFoundError` if there is none."""
    for path in (Path(folder, name), Path(folder, f"{name}.gz")):
        if path.is_file():
            return path
    raise InputNotFoundError(
        f"no {name} or {name}.gz in {folder}: give the folder that has MNIST's four IDX files"
    )


def digests(folder: str | Path, part: Part) -> dict[str, str]:
    """SHA-256 of a part's files as they lie there, by their names."""
    paths = [find(folder, name) for name in names(part)]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read_idx(path: str | Path) -> npt.NDArray[np.uint8]:
    """An array of unsigned bytes from an IDX file, gzip or not.

    Raises
    ------
    InputNotFoundError
        If there is no such file.
    FormatError
        If it is not one, is truncated, has more than its header says, or more than 1 GiB.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "a")
    >>> file.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 5, 6, 7]))
    15
    >>> read_idx(file)
    array([[5, 6, 7]], dtype=uint8)
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != bytes([0, 0, _BYTES]):
                raise FormatError(f"{path} is not an IDX file of bytes: it begins with {head!r}")
            if head[3] not in (1, 2, 3):  # NumPy has limits, and raises errors, of its own
                raise FormatError(f"{path} must have 1 to 3 dimensions: it has {head[3]}")
            shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
            size = math.prod(shape)
            if max(size, *shape) > _MOST:  # a dimension of 0 would make up for any other
                raise FormatError(
                    f"{path} claims the shape {shape}: at most {_MOST} numbers are read"
                )
            numbers = file.read(size + 1)
    except FileNotFoundError as error:
        raise InputNotFoundError(f"no file {path}") from error
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise FormatError(f"{path} cannot be read, it may be truncated: {error}") from error
    if len(numbers) != size:
        raise FormatError(
            f"{path} must hold {size} numbers, as its header says: it holds "
            f"{len(numbers) if len(numbers) < size else 'more'}"
        )
    return np.frombuffer(bytearray(numbers), np.uint8).reshape(shape)  # writable, as torch wants
