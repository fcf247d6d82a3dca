"""CIFAR-10 and CIFAR-100, in either of the formats that they are published in.

::

    binary   label, 3072 pixels | label, 3072 pixels | ...       (CIFAR-100: coarse label, label)
    Python   pickled dict: b"data" uint8 [n, 3072], b"labels" or b"fine_labels" list of int
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import numpy.typing as npt
import torch

from weightcast.experiments.pictures import central_crop, random_crop
from weightcast.experiments.unpickling import read_batch
from weightcast.store import FormatError, InputNotFoundError

PIXELS = 3 * 32 * 32
CROP = 24
FILES = {
    10: (tuple(f"data_batch_{part}" for part in range(1, 6)), ("test_batch",)),
    100: (("train",), ("test",)),
}

_MOST = 1 << 28  # bytes of a file; CIFAR-100's largest has 155 million


@dataclass
class Cifar:
    """Images as they lie in the files, and labels.

    Attributes
    ----------
    train, test : tuple of uint8 Tensor [N, 3, 32, 32] and int64 Tensor [N]
    sha256 : dict of str to str
        Digests of the files, by name.
    """

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    sha256: dict[str, str] = field(default_factory=dict)


def read(folder: str | Path, classes: int) -> Cifar:
    """Read the files of a folder, the binary ones where it has both.

    Parameters
    ----------
    folder : str or Path
        With ``data_batch_1.bin`` and its like, or the same names without ``.bin``.
    classes : {10, 100}

    Raises
    ------
    InputNotFoundError
        If a file is missing.
    FormatError
        If one is damaged, or is not CIFAR's. A pickle that has or asks for anything else than a
        batch is refused, and nothing in it is run.
    """
    sha256: dict[str, str] = {}
    train, test = (_part(Path(folder), names, classes, sha256) for names in FILES[classes])
    return Cifar(train, test, sha256)


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What CIFAR_1 trains on: random crops of 24 x 24, half of them mirrored, standardized.

    Parameters
    ----------
    x : float32 Tensor, shape (n, 3, 32, 32)
        From 0 to 255.
    generator : torch.Generator

    Returns
    -------
    float32 Tensor, shape (n, 3, 24, 24)

    Notes
    -----
    Section 4.2.2 of Sinha et al. 2017, whose network and crops are those of TensorFlow's tutorial.
    """
    return standardize(random_crop(x, CROP, generator))


def centre(x: torch.Tensor) -> torch.Tensor:
    """What CIFAR_1 is evaluated on: the central 24 x 24 pixels, standardized."""
    return standardize(central_crop(x, CROP))


def standardize(x: torch.Tensor) -> torch.Tensor:
    """Each image less its mean, over its standard deviation; that at least 1 / sqrt(numbers).

    Parameters
    ----------
    x : float32 Tensor, shape (n, C, H, W)
        From 0 to 255: the least deviation is meant for these.

    Notes
    -----
    As ``tf.image.per_image_standardization``: one mean for all channels together.

    Examples
    --------
    >>> standardize(torch.tensor([1.0, 3.0, 5.0, 5.0, 5.0, 5.0]).reshape(2, 1, 1, 3)).flatten()
    tensor([-1.2247,  0.0000,  1.2247,  0.0000,  0.0000,  0.0000])
    """
    spread, mean = torch.std_mean(x, (1, 2, 3), correction=0, keepdim=True)  # [n, 1, 1, 1]
    return (x - mean) / spread.clamp_min(1 / math.sqrt(math.prod(x.shape[1:])))


def _part(
    folder: Path, names: tuple[str, ...], classes: int, sha256: dict[str, str]
) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = [], []
    for name in names:
        path = next((p for p in (folder / f"{name}.bin", folder / name) if p.is_file()), None)
        if path is None:
            raise InputNotFoundError(
                f"no {name}.bin and no {name} in {folder}: give the folder of CIFAR-{classes}'s "
                "files, all of them, in the binary or the Python version"
            )
        data = _bytes(path)
        sha256[path.name] = hashlib.sha256(data).hexdigest()
        x, y = (_binary if path.suffix else _pickled)(path, data, classes)
        if not len(y) or y.max() >= classes:
            raise FormatError(
                f"{path} must hold images with labels below {classes}: it holds {len(y)}, with "
                f"labels up to {y.max(initial=0)}"
            )
        images.append(x)
        labels.append(y)
    x = np.concatenate(images).reshape(-1, 3, 32, 32)
    return torch.from_numpy(x), torch.from_numpy(np.concatenate(labels).astype(np.int64))


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST:
            raise FormatError(f"{path} has more than {_MOST} bytes: it is no file of CIFAR's")
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error


def _binary(
    path: Path, data: bytes, classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images [n, 3072] and labels [n]."""
    head = 1 if classes == 10 else 2  # the last of them is the label
    if len(data) % (head + PIXELS):
        raise FormatError(
            f"{path} must be records of {head + PIXELS} bytes: it has {len(data)} bytes, "
            "it may be truncated"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, head + PIXELS)
    return records[:, head:], records[:, head - 1]


def _pickled(
    path: Path, data: bytes, classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images [n, 3072] and labels [n]."""
    try:
        x, labels = read_batch(data, PIXELS, b"labels" if classes == 10 else b"fine_labels")
        if not all(type(y) is int and 0 <= y < classes for y in labels):
            raise UnpicklingError(f"its labels must be integers from 0 to {classes - 1}")
        return x, np.array(labels, np.uint8)
    except Exception as error:  # a damaged pickle raises whatever it comes upon
        raise FormatError(
            f"{path} is not a batch of CIFAR-{classes}'s Python version, or is damaged: "
            f"{type(error).__name__}: " + str(error).partition("\n")[0][:200]
        ) from error
