"""The data sets of the experiments, read from the files that people have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from weightcast.experiments import cifar, images32, mnist
from weightcast.experiments import folder as tree
from weightcast.experiments.digits import Task
from weightcast.experiments.pictures import Pictures, Prepare, hold_out
from weightcast.store import FormatError, InputNotFoundError, UsageError

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]

# Where each data set is looked for in a folder that holds several.
PLACES = {
    "mnist": ("mnist", "MNIST/raw", "MNIST"),
    "fashion": ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion"),
    "fashion-55000": ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion"),
    "cifar10": ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar10", "CIFAR10"),
    "cifar100": ("cifar-100-binary", "cifar-100-python", "cifar100", "CIFAR100"),
    "images": ("images", "imagenet", "ImageNet"),
}
PLACES |= {f"{name}-32": PLACES[name] for name in ("fashion", "cifar10", "cifar100")}

# MNIST and Fashion-MNIST come in files of the same names: these are digests of their labels.
LABELS = {
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5": "MNIST",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2": "MNIST",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9": "Fashion-MNIST",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34": "Fashion-MNIST",
}


@dataclass(frozen=True)
class Data:
    """A data set, ready to train on.

    Attributes
    ----------
    task : Task
        Its images are float32 tensors [N, C, H, W], or `Pictures`, which index like them.
    sha256 : dict of str to str
        Digests of the files read, by name.
    classes : int
    about : str
        What is there, in words.
    augment : callable, optional
        Training images [n, C, H, W] and a generator, to the images that are trained on.
    plain : callable, optional
        Training images to what they would be for evaluation; needed where there is `augment`.
    """

    task: Task
    sha256: dict[str, str]
    classes: int
    about: str
    augment: Augment | None = None
    plain: Prepare = torch.Tensor.contiguous

    def for_tuning(self) -> Data:
        """The training images alone, a fifth of them held out: to choose settings with."""
        x, y = self.task.train_x, self.task.train_y
        kept, held = hold_out(y)
        train: Any = Pictures(x, torch.Tensor.contiguous, kept)
        validation: Any = Pictures(x, self.plain, held)
        task = Task(train, y[kept], validation, y[held])
        return replace(self, task=task, about=f"{self.about}, a fifth held out")


def load_data(name: str, folder: str | Path) -> Data:
    """Read a data set; images in many files are read when they are asked for.

    Parameters
    ----------
    name : str
        "mnist" and "fashion": all training and all test images. "fashion-55000": of Fashion-MNIST's
        training images the last twelfth, 5,000 of 60,000, stand in for the test images, as in
        NiNo's FM-16. "cifar10", "cifar100": see `experiments.cifar`. "images": see
        `experiments.folder`. "fashion-32", "cifar10-32", "cifar100-32": see
        `experiments.images32`.
    folder : str or Path
        The data set's own folder, or one that has it in a sub-folder, see `PLACES`.

    Raises
    ------
    UsageError
        If there is no data set of that name.
    InputNotFoundError
        If a file is missing.
    FormatError
        If one is damaged, or of another data set.
    MissingExtraError
        If images are to be decoded and Pillow is not installed.

    Examples
    --------
    >>> load_data("minst", ".")
    Traceback (most recent call last):
    weightcast.store.errors.UsageError: data must be one of mnist, fashion, ...: got 'minst'
    """
    if name not in PLACES:
        raise UsageError(f"data must be one of {', '.join(PLACES)}: got {name!r}")
    if name.endswith("-32"):
        return _in_32(name, Path(folder))
    if name == "images":
        return _images(Path(folder))
    return _cifar(name, Path(folder)) if "cifar" in name else _idx(name, Path(folder))


def idx_folder(name: str, place: Path) -> Path:
    """The folder that has the IDX files of MNIST or Fashion-MNIST: `place`, or one in it."""
    return _place(name, place, *(f"{mnist.names('train')[1]}{end}" for end in ("", ".gz")))


def _idx(name: str, place: Path) -> Data:
    title = "MNIST" if name == "mnist" else "Fashion-MNIST"
    found = idx_folder(name, place)
    x, y = mnist.load_images(found, "train")
    sha256 = mnist.digests(found, "train")
    _refuse_other(title, found, y)
    if name == "fashion-55000":
        cut = len(x) - len(x) // 12
        task = Task(x[:cut], y[:cut], x[cut:], y[cut:])
        tests = f"the last {len(x) - cut:,} of them held out"
        return Data(task, sha256, 10, f"{title}: {_of(len(x), 60_000)} training images, {tests}")
    task = Task(x, y, *mnist.load_images(found, "t10k"))
    sha256 |= mnist.digests(found, "t10k")
    _refuse_other(title, found, task.validation_y)
    return Data(task, sha256, 10, _about(title, task, 60_000))


def _cifar(name: str, place: Path) -> Data:
    classes = int(name.removeprefix("cifar"))
    first = cifar.FILES[classes][0][0]
    found = cifar.read(_place(name, place, f"{first}.bin", first), classes)
    train: Any = Pictures(found.train[0], torch.Tensor.float)
    test: Any = Pictures(Pictures(found.test[0], torch.Tensor.float), cifar.centre)
    task = Task(train, found.train[1], test, found.test[1])
    about = _about(f"CIFAR-{classes}", task, 50_000)
    return Data(task, found.sha256, classes, about, cifar.augment, cifar.centre)


def _in_32(name: str, place: Path) -> Data:
    """The same images as CIFAR networks are trained on them."""
    data = load_data(name.removesuffix("-32"), place)
    train: Any = data.task.train_x
    test: Any = data.task.validation_x
    form, about = images32.CIFAR, f"{data.about}, of 32 x 32 pixels"
    if name == "fashion-32":
        train, test = Pictures(train, images32.widened), Pictures(test, images32.widened)
        form, about = images32.FASHION, f"{data.about}, padded to 32 x 32 pixels of three channels"
    else:
        test = test.source  # before its centre is cut out
    test = Pictures(test, form.plain)
    task = replace(data.task, train_x=train, validation_x=test)
    return replace(data, task=task, about=about, augment=form.augment, plain=form.plain)


def _images(place: Path) -> Data:
    found = tree.read(_tree(place))
    train: Any = Pictures(found.train.files, tree.normalize)
    test: Any = Pictures(Pictures(found.test.files, tree.normalize), tree.centre)
    task = Task(train, found.train.labels, test, found.test.labels)
    sha256 = {
        "train, names and sizes": found.train.sha256,
        "val, names and sizes": found.test.sha256,
    }
    tests = "images of val" if found.has_val else "held out"
    about = (
        f"images: {len(found.classes):,} classes, {len(train):,} training images, "
        f"{len(test):,} {tests}"
    )
    return Data(task, sha256, len(found.classes), about, tree.augment, tree.centre)


def _tree(place: Path) -> Path:
    """Where the classes of images are: beside other things, only in a folder named for them."""
    inner = (path for path in _places("images", place)[1:] if path.is_dir())
    return place if (place / "train").is_dir() else next(inner, place)


def _place(name: str, place: Path, *files: str) -> Path:
    """The first of a data set's folders that has one of the files."""
    for path in _places(name, place):
        if any((path / file).is_file() for file in files):
            return path
    raise InputNotFoundError(
        f"no {' or '.join(files)} in {place}, nor in {', '.join(PLACES[name])} there: "
        f"give the folder that has {name}'s files"
    )


def _places(name: str, place: Path) -> tuple[Path, ...]:
    return (place, *(place / inner for inner in PLACES[name]))


def _refuse_other(title: str, place: Path, labels: torch.Tensor) -> None:
    """MNIST where Fashion-MNIST was asked for, and the reverse, would go unnoticed."""
    head = bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big")
    digest = hashlib.sha256(head + labels.to(torch.uint8).numpy().tobytes()).hexdigest()
    if (found := LABELS.get(digest, title)) != title:
        raise FormatError(f"{place} must hold {title}: it holds {found}, give another folder")


def _about(title: str, task: Task, whole: int) -> str:
    train, test = _of(len(task.train_y), whole), _of(len(task.validation_y), 10_000)
    return f"{title}: {train} training images, {test} test images"


def _of(count: int, whole: int) -> str:
    """What is there, of what there should be.

    Examples
    --------
    >>> _of(10_000, 60_000), _of(10_000, 10_000)
    ('10,000 of 60,000', '10,000')
    """
    return f"{count:,}" if count == whole else f"{count:,} of {whole:,}"
