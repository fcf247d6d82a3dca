"""Data sets from OpenML, written as the files that `experiments.loading` reads."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import fetch_openml

from weightcast.experiments import cifar, mnist
from weightcast.experiments.loading import LABELS
from weightcast.store import FormatError, RemoteError, UsageError
from weightcast.store.output import refuse_existing, replacing

Bytes = npt.NDArray[np.uint8]

# OpenML's names, of version 1; the training images come first, then the test images.
SOURCES = {"mnist": "mnist_784", "fashion": "Fashion-MNIST", "cifar10": "CIFAR_10"}

_TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}


def fetch(name: str, folder: str | Path) -> list[Path]:
    """Download a data set from OpenML and write it as its standard files.

    Parameters
    ----------
    name : {"mnist", "fashion", "cifar10"}
    folder : str or Path
        The data set's own folder.

    Returns
    -------
    list of Path
        Files written: IDX, packed with gzip, or CIFAR-10's binary version.

    Raises
    ------
    UsageError
        If it is no data set that can be downloaded.
    OutputExistsError
        If a file is there already.
    RemoteError
        If OpenML cannot be reached; the message says which files to put where instead.
    FormatError
        If what comes is not the data set, or its images are in another order.

    Notes
    -----
    OpenML has text: CIFAR-10 takes some minutes, and 2 GB of memory while it is read.
    """
    if name not in SOURCES:
        raise UsageError(f"data to fetch must be one of {', '.join(SOURCES)}: got {name!r}")
    paths = [Path(folder, file) for file in _files(name)]
    for path in paths:
        refuse_existing(path)
    images, labels = _download(name, paths)
    contents = list(_contents(name, images, labels))  # all checked before one is written
    for path, content in zip(paths, contents, strict=True):
        with replacing(path, new=True) as temporary:
            temporary.write_bytes(content)
    return paths


def _files(name: str) -> list[str]:
    if name == "cifar10":
        return [f"{file}.bin" for part in cifar.FILES[10] for file in part]
    return [f"{file}.gz" for part in ("train", "t10k") for file in mnist.names(part)]


def _download(name: str, paths: list[Path]) -> tuple[Bytes, Bytes]:
    """Images [N, pixels] and labels [N]."""
    source = SOURCES[name]
    try:
        # liac-arff needs no pandas
        x, y = fetch_openml(
            source, version=1, as_frame=False, return_X_y=True, parser="liac-arff", cache=False
        )
    except (OSError, HTTPException, ValueError) as error:
        files = ", ".join(path.name for path in paths)
        raise RemoteError(
            f"{source} cannot be had from OpenML ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}): put {files} into {paths[0].parent} yourself"
        ) from error
    pixels = cifar.PIXELS if name == "cifar10" else 28 * 28
    images, labels = _bytes(x), _bytes(y)
    if images is None or labels is None or not len(y) or images.shape != (len(y), pixels):
        raise FormatError(f"OpenML's {source} must be bytes [N, {pixels}] and N labels: it is not")
    return images, labels


def _bytes(values: object) -> Bytes | None:
    """Numbers, or what is written as such, as bytes, if they can be without a change."""
    try:
        numbers = np.asarray(values).astype(np.float64)
        with np.errstate(invalid="ignore"):  # those that are too large are found below
            found = numbers.astype(np.uint8)
    except ValueError:
        return None
    return found if np.array_equal(found, numbers) else None


def _contents(name: str, images: Bytes, labels: Bytes) -> Iterator[bytes]:
    """What to write into each of the files."""
    if name == "cifar10":
        # CIFAR-10 has every class as often, in the training as in the test images.
        counts = np.bincount(labels[-(len(labels) // 6) :], minlength=10)
        if len(labels) % 6 or counts.min() != counts.max():
            raise FormatError("OpenML's CIFAR_10 must end with the 10,000 test images: it does not")
        for x, y in zip(np.split(images, 6), np.split(labels, 6), strict=True):
            yield np.concatenate([y[:, None], x], axis=1).tobytes()
        return
    cut = len(labels) * 6 // 7
    for part in (slice(cut), slice(cut, None)):
        answers = _idx(labels[part])
        if LABELS.get(hashlib.sha256(answers).hexdigest()) != _TITLES[name]:
            raise FormatError(f"OpenML's {SOURCES[name]} must have the labels of {_TITLES[name]}")
        for content in (_idx(images[part].reshape(-1, 28, 28)), answers):
            yield gzip.compress(content, mtime=0)


def _idx(values: Bytes) -> bytes:
    head = bytes([0, 0, 8, values.ndim])
    return head + b"".join(side.to_bytes(4, "big") for side in values.shape) + values.tobytes()
