"""Images in folders by class, as ImageNet comes; decoded by Pillow when they are asked for.

::

    train/CLASS/*.jpg   val/CLASS/*.jpg      or CLASS/*.jpg alone, of which a fifth is held out
         (or in folders in CLASS/)

    file -> shorter side 256, central 256 x 256 -> training: random 224 x 224, half mirrored
                                                -> evaluation: central 224 x 224
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from weightcast.experiments.pictures import central_crop, hold_out, random_crop
from weightcast.store import FormatError, InputNotFoundError
from weightcast.store.extras import require_pillow

SIDE = 256
CROP = 224
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images

_KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}


@dataclass(frozen=True)
class Files:
    """Image files, in place of a tensor of them.

    Attributes
    ----------
    paths : sequence of Path
    """

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """Those images, decoded: uint8 [n, 3, 256, 256]."""
        decoded = [decode(self.paths[row]) for row in rows.tolist()]
        return torch.stack(decoded) if decoded else torch.empty(0, 3, SIDE, SIDE).byte()


@dataclass(frozen=True)
class Part:
    """What one folder of classes holds.

    Attributes
    ----------
    files : Files
        By class, then by name.
    labels : int64 Tensor, shape (N,)
        Index of each file's class.
    sha256 : str
        Digest of the files' names and sizes: their contents may be too much to read first.
    """

    files: Files
    labels: torch.Tensor
    sha256: str

    def only(self, rows: torch.Tensor) -> Part:
        """Some of its files."""
        paths = [self.files.paths[row] for row in rows.tolist()]
        return Part(Files(paths), self.labels[rows], self.sha256)


@dataclass(frozen=True)
class Tree:
    """What a folder of images holds.

    Attributes
    ----------
    classes : list of str
        Their names, sorted.
    train, test : Part
    has_val : bool
        Whether the test images are those of ``val``; if not, a fifth of each class.
    """

    classes: list[str]
    train: Part
    test: Part
    has_val: bool


def read(root: Path) -> Tree:
    """Find the images of a folder; none is opened yet.

    Parameters
    ----------
    root : Path
        With ``train/CLASS/`` and ``val/CLASS/``, or with ``CLASS/`` alone.

    Raises
    ------
    InputNotFoundError
        If there are no classes.
    FormatError
        If there is one only, if one has no image or is not in ``train``, if a name is a link out
        of the folder, or if what has an image's name is no file.
    """
    has_val = (root / "train").is_dir()
    first = root / "train" if has_val else root
    classes = _classes(first)
    if len(classes) < 2:
        raise FormatError(f"{first} must have two folders of images or more: it has {classes}")
    train = _part(first, classes, classes, root)
    if has_val:
        val = root / "val"
        return Tree(classes, train, _part(val, _classes(val), classes, root), True)
    kept, held = hold_out(train.labels)
    return Tree(classes, train.only(kept), train.only(held), False)


def decode(path: Path) -> torch.Tensor:
    """An image, its shorter side resized to 256, and of the other the middle.

    Parameters
    ----------
    path : Path

    Returns
    -------
    uint8 Tensor, shape (3, 256, 256)

    Raises
    ------
    FormatError
        If it is no regular file, damaged, no image, or larger than Pillow takes for safe.
    MissingExtraError
        If Pillow is not installed.
    """
    pillow = require_pillow()
    _require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which is not used
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path, formats=sorted(set(_KINDS.values()))) as image:
                image.draft(
                    "RGB", (SIDE, SIDE)
                )  # large JPEGs are decoded at a fraction, still larger
                width, height = image.size
                side = min(width, height)
                left, top = (width - side) / 2, (height - side) / 2
                square = image.convert("RGB").resize(
                    (SIDE, SIDE), pillow.Resampling.BILINEAR, (left, top, left + side, top + side)
                )
                return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()
    except Exception as error:  # damaged files raise errors of many kinds from within the decoders
        raise FormatError(
            f"image {path} cannot be decoded, repair or remove it: {type(error).__name__}: {error}"
        ) from error


def normalize(x: torch.Tensor) -> torch.Tensor:
    """Pixels [n, 3, H, W] from 0 to 255, as float32 with about mean 0 and deviation 1."""
    mean, spread = (torch.tensor(v).reshape(3, 1, 1) * 255 for v in (MEAN, SPREAD))
    return (x.float() - mean) / spread


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What is trained on: random crops [n, 3, 224, 224] of [n, 3, 256, 256], half mirrored.

    Notes
    -----
    As AlexNet was trained (Krizhevsky et al. 2012, section 4.1), without its changes of colour.
    """
    return random_crop(x, CROP, generator)


def centre(x: torch.Tensor) -> torch.Tensor:
    """What is evaluated on: the central [n, 3, 224, 224]."""
    return central_crop(x, CROP)


def _classes(folder: Path) -> list[str]:
    try:
        found = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        found = []
    except OSError as error:
        raise FormatError(f"{folder} cannot be read: {error}") from error
    if not found:
        raise InputNotFoundError(
            f"no folders of images in {folder}: give one that has train/CLASS/ and val/CLASS/, or "
            "CLASS/ alone"
        )
    return found


def _part(folder: Path, names: Sequence[str], classes: Sequence[str], root: Path) -> Part:
    """The image files of some classes, sorted by class and name."""
    inside, paths, labels = root.resolve(), list[Path](), list[int]()
    for name in names:
        of_class = _images(folder / name, inside)
        if name not in classes or not of_class:
            wrong = "has no images" if name in classes else "is not among the classes of train"
            raise FormatError(f"{folder / name} {wrong} ({', '.join(_KINDS)})")
        paths += of_class
        labels += [classes.index(name)] * len(of_class)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(f"{path.relative_to(folder)}\0{path.stat().st_size}\n"))
    return Part(Files(paths), torch.tensor(labels), digest.hexdigest())


def _images(folder: Path, inside: Path) -> list[Path]:
    """Paths of a class's images, sorted."""
    _refuse_outside(folder, inside)
    found = []
    for place, _, names in os.walk(folder):  # links to folders are not followed
        for name in names:
            path = Path(place, name)
            if path.suffix.lower() in _KINDS and name[0] != ".":
                if path.is_symlink():
                    _refuse_outside(path, inside)
                _require_file(path)
                found.append(path)
    return sorted(found)


def _require_file(path: Path) -> None:
    """To open a pipe would be to wait for its writer."""
    if not path.is_file():
        raise FormatError(f"image {path} must be a regular file: repair or remove it")


def _refuse_outside(path: Path, inside: Path) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # it leads nowhere, or in a circle
        raise FormatError(f"{path} is a link that leads nowhere: {error}") from error
    if not target.is_relative_to(inside):
        raise FormatError(f"{path} leads out of {inside}: put the images themselves there")
