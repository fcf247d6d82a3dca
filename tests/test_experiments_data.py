"""The data sets of the experiments: files small and in the real formats, and what is refused."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from weightcast.experiments import cifar, openml
from weightcast.experiments import folder as tree
from weightcast.experiments.loading import PLACES, Data, load_data
from weightcast.experiments.mnist import read_idx
from weightcast.experiments.pictures import Pictures, central_crop, random_crop
from weightcast.experiments.unpickling import read_batch
from weightcast.store import (
    FormatError,
    InputNotFoundError,
    MissingExtraError,
    OutputExistsError,
    RemoteError,
    UsageError,
)

MNIST = Path("/work/shared/data/mnist")
FASHION = Path("/usr/share/datasets/fashion-mnist")


def assert_refused(error: type[Exception], words: str, act: Callable[[], object]) -> None:
    with pytest.raises(error, match=words) as caught:
        act()
    assert "\n" not in str(caught.value)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- IDX


def idx(values: np.ndarray) -> bytes:
    head = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.tobytes()


def write_idx(folder: Path, train: int = 24, test: int = 5) -> Path:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        images = idx(random.integers(0, 256, (count, 28, 28), np.uint8))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        labels = idx((np.arange(count) % 10).astype(np.uint8))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return folder


@pytest.mark.parametrize("name", ["mnist", "fashion"])
@pytest.mark.parametrize("inner", [False, True])
def test_idx_files_are_found_in_their_folder_or_one_above(
    tmp_path: Path, name: str, inner: bool
) -> None:
    for place in PLACES[name] if inner else ("",):
        folder = tmp_path / "of" / place.replace("/", "-")
        files = write_idx(folder / place)
        data = load_data(name, folder)
        assert data.task.train_x.shape == (24, 1, 28, 28)
        assert data.task.validation_y.tolist() == [0, 1, 2, 3, 4]
        assert data.classes == 10
        assert data.augment is None
        assert data.sha256 == {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files.iterdir()
        }
    title = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}[name]
    assert data.about == f"{title}: 24 of 60,000 training images, 5 of 10,000 test images"


def test_fashion_55000_holds_out_the_last_twelfth_and_needs_no_test_images(tmp_path: Path) -> None:
    whole = load_data("fashion", write_idx(tmp_path, train=60)).task
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    data = load_data("fashion-55000", tmp_path)
    assert torch.equal(data.task.train_x, whole.train_x[:55])
    assert torch.equal(data.task.train_y, whole.train_y[:55])
    assert torch.equal(data.task.validation_x, whole.train_x[55:])
    assert torch.equal(data.task.validation_y, whole.train_y[55:])
    assert data.about == (
        "Fashion-MNIST: 60 of 60,000 training images, the last 5 of them held out"
    )
    assert len(data.sha256) == 2


@pytest.mark.skipif(not MNIST.exists(), reason="no MNIST here")
def test_mnist_is_what_it_is() -> None:
    data = load_data("mnist", MNIST.parent)
    assert data.about == "MNIST: 10,000 of 60,000 training images, 10,000 test images"
    assert data.task.validation_y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert_refused(FormatError, "it holds MNIST", lambda: load_data("fashion", MNIST))


@pytest.mark.skipif(not FASHION.exists(), reason="no Fashion-MNIST here")
@pytest.mark.parametrize("part", ["train", "t10k"])
def test_fashion_is_not_taken_for_mnist(tmp_path: Path, part: str) -> None:
    labels = read_idx(FASHION / f"{part}-labels-idx1-ubyte.gz")
    write_idx(tmp_path)
    (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    blank = gzip.compress(idx(np.zeros((len(labels), 28, 28), np.uint8)), 1)
    (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(blank)
    assert_refused(FormatError, "it holds Fashion-MNIST", lambda: load_data("mnist", tmp_path))


@pytest.mark.parametrize("name", sorted(PLACES))
def test_what_is_missing_is_said(tmp_path: Path, name: str) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputNotFoundError, match=r"give (the folder|one) that") as caught:
            load_data(name, folder)
        assert str(folder) in str(caught.value)


def test_an_unknown_data_set_is_refused() -> None:
    assert_refused(UsageError, "got 'cifar'", lambda: load_data("cifar", "."))


# ---- CIFAR


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes what Python 2 wrote: str and bytes are the same, and NumPy is of old."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: bytes | str) -> None:
        data = value.encode("latin-1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    def save_name(self, value: Any, name: str | None = None) -> None:
        module = "numpy.core.multiarray" if value.__name__ == "_reconstruct" else value.__module__
        self.write(b"c" + f"{module}\n{value.__name__}\n".encode())
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string
    dispatch[type] = dispatch[type(len)] = save_name
    save_global = save_name


def python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue()


def batches(classes: int, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Three images a file: pixels [3, 3072] and labels [3]."""
    random = np.random.default_rng(seed)
    return {
        name: (
            random.integers(0, 256, (3, 3072), np.uint8),
            random.integers(0, classes, 3).astype(np.uint8),
        )
        for part in cifar.FILES[classes]
        for name in part
    }


def binary(x: np.ndarray, y: np.ndarray, classes: int) -> bytes:
    coarse = b"\7" if classes == 100 else b""
    return b"".join(
        coarse + bytes([label]) + image.tobytes() for image, label in zip(x, y, strict=True)
    )


def batch(x: np.ndarray, y: np.ndarray, classes: int) -> dict[str, object]:
    labels = y.tolist()
    names = {"fine_labels": labels, "coarse_labels": [3] * len(x)}
    names = {"labels": labels} if classes == 10 else names
    return {"batch_label": "batch 1 of 5", "data": x, "filenames": ["a.png"] * len(x), **names}


def write_cifar(folder: Path, classes: int, form: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(exist_ok=True)
    found = batches(classes)
    for name, (x, y) in found.items():
        if form == "binary":
            (folder / f"{name}.bin").write_bytes(binary(x, y, classes))
        else:
            (folder / name).write_bytes(python2(batch(x, y, classes)))
    return found


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("classes", [10, 100])
def test_both_formats_of_cifar_give_the_same_images(
    tmp_path: Path, classes: int, form: str
) -> None:
    place = f"cifar-{classes}" + ("-batches" if classes == 10 else "")
    ending = form if classes == 100 else {"binary": "bin", "python": "py"}[form]
    folder = tmp_path / f"{place}-{ending}"
    wrote = list(write_cifar(folder, classes, form).values())
    data = load_data(f"cifar{classes}", tmp_path)
    x = np.concatenate([x for x, _ in wrote[:-1]]).reshape(-1, 3, 32, 32)
    assert data.classes == classes
    assert data.task.train_y.tolist() == [int(y) for _, ys in wrote[:-1] for y in ys]
    assert data.task.train_x[:].dtype == torch.float32
    assert np.array_equal(data.task.train_x[:], x)
    rows = torch.tensor([2, 0])
    assert np.array_equal(data.task.train_x[rows], x[rows])
    held = torch.from_numpy(wrote[-1][0].reshape(3, 3, 32, 32)).float()
    assert torch.equal(data.task.validation_x[:2], cifar.standardize(held[:2, :, 4:28, 4:28]))
    assert data.about == (
        f"CIFAR-{classes}: {len(x)} of 50,000 training images, 3 of 10,000 test images"
    )
    assert data.sha256 == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }


def test_a_batch_that_python_3_pickled_again_reads_as_well(tmp_path: Path) -> None:
    wrote = write_cifar(tmp_path, 10, "python")
    x, y = wrote["test_batch"]
    again = {b"data": x, b"labels": y.tolist()}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(again, protocol=4))
    found = cifar.read(tmp_path, 10)
    assert np.array_equal(found.test[0].reshape(3, 3072), x)


values = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(1 << 80), 1 << 80), st.floats(allow_nan=False)),
    *(st.binary(), st.text(), st.just(b"a") | st.just("numpy")),
)
trees = st.recursive(
    values, lambda inner: st.lists(inner) | st.lists(inner).map(tuple), max_leaves=30
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.binary(max_size=9) | st.text(max_size=9), trees), st.integers(3, 4))
def test_what_is_beside_the_images_is_read_over(other: dict[Any, Any], protocol: int) -> None:
    """As Python's own reader does it."""
    x, y = np.arange(6144).reshape(2, 3072).astype(np.uint8), [2, 5]
    whole = pickle.dumps({**other, b"labels": y, b"data": x, b"same": [y, y, "numpy"]}, protocol)
    images, labels = read_batch(whole, 3072, b"labels")
    expected = pickle.loads(whole)
    assert np.array_equal(images, expected[b"data"])
    assert labels == expected[b"labels"]
    for key in other:
        if key not in (b"data", b"labels", b"same"):
            alone = pickle.dumps({b"data": x, b"labels": [other[key]] * 2}, protocol)
            assert read_batch(alone, 3072, b"labels")[1] == [other[key]] * 2


class Runs:
    """Unpickled by plain pickle, makes a folder."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


GOOD = batch(np.zeros((2, 3072), np.uint8), np.array([1, 2]), 10)
REPLACED: dict[str, dict[str, object]] = {
    "no data": {"data": None},
    "too few pixels": {"data": np.zeros((2, 3071), np.uint8)},
    "flat": {"data": np.zeros(2 * 3072, np.uint8)},
    "columns first": {"data": np.asfortranarray(np.zeros((2, 3072), np.uint8))},
    "floats": {"data": np.zeros((2, 3072), np.float32)},
    "an array of objects": {"data": np.array([[{}] * 3072] * 2)},
    "another count": {"labels": [1, 2, 3]},
    "a negative label": {"labels": [1, -1]},
    "a large label": {"labels": [1, 10]},
    "a label of another kind": {"labels": [1, True]},
    "no list of labels": {"labels": {1: 1, 2: 2}},
    "labels that are no list either": {"labels": b"\1\2"},
}
BAD: dict[str, bytes] = {
    **{case: python2({**GOOD, **other}) for case, other in REPLACED.items()},
    "empty": b"",
    "no pickle": b"something else",
    "no dict": python2([1, 2]),
    "no keys": python2({}),
    "no images": python2(batch(np.zeros((0, 3072), np.uint8), np.zeros(0), 10)),
    "a function of the system": pickle.dumps(Runs(os.mkdir, "made"), protocol=2),
    "a function of builtins": pickle.dumps(Runs(eval, "__import__('os').mkdir('made')"), 2),
    "another name of numpy": pickle.dumps(Runs(np.load, "made"), 2),
    "an encoded string": pickle.dumps({b"data": b"\xff"}, 2),
    "a name within a name": b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
    "a persistent object": b"\x80\x02U\x01aQ.",
    "an extension": b"\x80\x02\x82\x01.",
    "an attribute of the class": b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb.",
    "an array twice": b"\x80\x02cnumpy\nndarray\nN\x85R(NNNNNtb.",
    "room for two milliards": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a long that is cut": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    # Python's own reader overruns its stack with some 100,000 of these tuples, and hashes for ever
    # with some 30 of the next.
    "tuples in a tuple": b"\x80\x02})" + b"\x85" * 10 + b"K\1s.",
    "a tuple twice in the next": b"\x80\x02})" + b"q\0h\0\x86" * 10 + b"K\1s.",
    "an object twice": b"\x80\x02})2\x86K\1s.",
    "a number for a key": b"\x80\x02}K\1K\1s.",
    "a long key": b"\x80\x02}U\x65" + b"x" * 101 + b"K\1s.",
    "a million operations": b"\x80\x02(" + b"N" * (1 << 20) + b"t.",
    "bytes for arguments": b"\x80\x02cnumpy\nndarray\nU\1aR.",
    "a call of a text": b"\x80\x02U\1a)R.",
    "more than there is": b"\x80\x02N\x86.",
    "a list that gets keys": b"\x80\x02]U\1aK\1s.",
    "nothing at all": b"\x80\x02.",
}


SAID = {
    "a function of the system": "asks for 'posix.mkdir', which is not allowed",
    "a function of builtins": "asks for '.*eval', which is not allowed",
    "another name of numpy": "which is not allowed",
    "no dict": "it must be a dict",
    "no keys": "KeyError",
    "a persistent object": "operation BINPERSID",
    "an attribute of the class": "not to be filled",
    "an array twice": "not rows of bytes",
    "tuples in a tuple": "keys must be texts",
    "a tuple twice in the next": "keys must be texts",
    "an object twice": "operation DUP",
    "a number for a key": "keys must be texts",
    "a long key": "up to 100 characters",
    "a million operations": "more than 1048576 operations",
    "bytes for arguments": "calls what is not allowed",
    "a call of a text": "calls what is not allowed",
    "more than there is": "takes more than there is",
    "a list that gets keys": "not to be filled",
    "labels that are no list either": "must be a list",
    "floats": "other numbers than bytes",
    "a negative label": "integers from 0 to 9",
    "too few pixels": "its data must be",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pickles_are_refused_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    write_cifar(tmp_path, 10, "python")
    (tmp_path / "test_batch").write_bytes(BAD[case])
    monkeypatch.chdir(tmp_path)
    words = f"test_batch .*{SAID.get(case, '')}"
    assert_refused(FormatError, words, lambda: cifar.read(tmp_path, 10))
    assert not Path("made").exists()


def test_the_bad_pickles_would_do_harm_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(BAD["a function of the system"])
    assert Path("made").exists()
    assert pickle.loads(python2(GOOD), encoding="bytes")[b"labels"] == [1, 2]


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_a_damaged_pickle_is_refused_or_reads_as_a_batch(data: st.DataObject) -> None:
    """Any byte of all but the pixels."""
    whole = bytearray(PICKLE)
    start = PICKLE.index(bytes(3072 * 2))
    places = [p for p in range(len(whole)) if not start <= p < start + 3072 * 2]
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(whole), *places]))
    check_either(bytes(whole[:cut]))


PICKLE = python2(GOOD)


def check_either(content: bytes) -> None:
    with TemporaryDirectory() as name:
        for file in (*cifar.FILES[10][0], "test_batch"):
            Path(name, file).write_bytes(PICKLE)
        Path(name, "test_batch").write_bytes(content)
        try:
            found = cifar.read(name, 10)
        except FormatError:
            return
        assert found.test[0].shape == (2, 3, 32, 32)
        assert 0 <= int(found.test[1].min()) <= int(found.test[1].max()) < 10


@pytest.mark.parametrize("classes", [10, 100])
def test_bad_binary_files_are_refused(tmp_path: Path, classes: int) -> None:
    x, y = write_cifar(tmp_path, classes, "binary")[name := cifar.FILES[classes][1][0]]
    path, good = tmp_path / f"{name}.bin", binary(x, y, classes)
    bad = {
        b"": "it holds 0",
        good[:-1]: "truncated",
        good + b"\0": "truncated",
        binary(x, np.full(3, classes), classes): f"labels up to {classes}",
    }
    for content, words in bad.items():
        path.write_bytes(content)
        assert_refused(FormatError, words, lambda: cifar.read(tmp_path, classes))


def test_a_missing_batch_is_said(tmp_path: Path) -> None:
    write_cifar(tmp_path, 10, "binary")
    (tmp_path / "data_batch_4.bin").unlink()
    assert_refused(InputNotFoundError, "no data_batch_4.bin", lambda: cifar.read(tmp_path, 10))


def test_an_enormous_file_is_not_read(tmp_path: Path) -> None:
    write_cifar(tmp_path, 10, "binary")
    os.truncate(tmp_path / "test_batch.bin", 3073 << 17)  # a hole
    assert_refused(FormatError, "more than", lambda: cifar.read(tmp_path, 10))


# ---- crops


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 6), st.integers(0, 3), st.integers(0, 3), st.integers(0))
def test_random_crops_are_pieces_of_their_image(
    count: int, size: int, tall: int, wide: int, seed: int
) -> None:
    x = torch.arange(count * 2 * (size + tall) * (size + wide))
    x = x.reshape(count, 2, size + tall, size + wide)
    if not count:
        return
    seed %= 1 << 62
    found = random_crop(x, size, generator(seed))
    assert torch.equal(found, random_crop(x, size, generator(seed)))
    for image, piece in zip(x, found, strict=True):
        every = [
            image[:, top : top + size, left : left + size]
            for top in range(tall + 1)
            for left in range(wide + 1)
        ]
        assert any(torch.equal(piece, p) or torch.equal(piece.flip(2), p) for p in every)


def test_random_crops_reach_every_place_and_half_are_mirrored() -> None:
    x = torch.arange(9).reshape(1, 1, 3, 3).repeat(800, 1, 1, 1)
    found, counts = np.unique(random_crop(x, 2, generator()).flatten(1), axis=0, return_counts=True)
    assert len(found) == 8  # four places, mirrored or not
    assert counts.min() > 60
    assert counts.max() < 145


def test_cifar_images_are_standardized_as_in_the_tutorial() -> None:
    x = torch.rand(4, 3, 32, 32, generator=generator()) * 255
    x[3] = 7
    found = cifar.augment(x, generator(1))
    assert found.shape == (4, 3, 24, 24)
    crops = random_crop(x, 24, generator(1)).numpy().astype(np.float64)
    for image, crop in zip(found, crops, strict=True):
        slow = (crop - crop.mean()) / max(crop.std(), 1 / np.sqrt(3 * 24 * 24))
        np.testing.assert_allclose(image, slow, atol=1e-5)
    assert torch.equal(cifar.centre(x), cifar.standardize(x[:, :, 4:28, 4:28]))
    faint = torch.zeros(1, 1, 2, 2)
    faint[0, 0, 0, 0] = 0.1  # deviates by 0.043, less than 1 / sqrt(4)
    np.testing.assert_allclose(cifar.standardize(faint)[0, 0, 0], [0.15, -0.05], rtol=1e-5)


# ---- images in folders


def picture(path: Path, size: tuple[int, int] = (300, 260), colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 10, 200)).save(path)


def write_tree(folder: Path) -> Path:
    for place in ("train/cat/b.png", "train/cat/a.JPG", "train/ant/inner/c.jpeg", "val/cat/d.webp"):
        picture(folder / place, colour=40 * len(place))
    (folder / "train/cat/notes.txt").write_text("no image")
    (folder / "train/.hidden").mkdir()
    return folder


def test_folders_of_images(tmp_path: Path) -> None:
    data = load_data("images", write_tree(tmp_path / "imagenet").parent)
    assert data.about == "images: 2 classes, 3 training images, 1 images of val"
    assert data.classes == 2
    assert data.task.train_y.tolist() == [0, 1, 1]  # ant, cat, cat
    assert data.task.validation_y.tolist() == [1]
    x = data.task.train_x[torch.tensor([2, 0])]
    assert x.shape == (2, 3, 256, 256)
    assert x.dtype == torch.float32
    green = (10 / 255 - 0.456) / 0.224
    np.testing.assert_allclose(x[0, 1], green, rtol=1e-5)
    assert data.augment is not None
    assert data.augment(x, generator()).shape == (2, 3, 224, 224)
    assert data.task.validation_x[:1].shape == (1, 3, 224, 224)
    assert data.task.train_x[:0].shape == (0, 3, 256, 256)


def test_the_shorter_side_becomes_256_and_the_middle_stays(tmp_path: Path) -> None:
    ramp = np.tile((np.arange(768) / 3).astype(np.uint8), (512, 1))  # 0 to 255, left to right
    for wide in (True, False):
        values = ramp if wide else ramp.T
        Image.fromarray(np.stack([values] * 3, -1)).save(tmp_path / "a.png")
        found = tree.decode(tmp_path / "a.png")[0].numpy()
        across = found if wide else found.T
        expected = (128 + 2 * np.arange(256)) / 3  # columns 128 to 640, every second
        np.testing.assert_allclose(across, np.tile(expected, (256, 1)), atol=1)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16", "LA"])
def test_images_of_every_mode_become_three_colours(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (20, 30)).save(path)
    assert tree.decode(path).shape == (3, 256, 256)


def test_without_val_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    for label, name in enumerate(("b", "a")):
        for count in range(5 + 5 * label):
            picture(tmp_path / name / f"{count}.png", (8, 8))
    data = load_data("images", tmp_path)
    assert data.about == "images: 2 classes, 12 training images, 3 held out"
    assert sorted(data.task.validation_y.tolist()) == [0, 0, 1]  # a has ten
    assert data.task.train_x[:].shape == (12, 3, 256, 256)
    assert load_data("images", tmp_path).sha256 == data.sha256
    picture(tmp_path / "a/0.png", (90, 90))
    assert load_data("images", tmp_path).sha256 != data.sha256


def test_the_held_out_images_are_no_training_images(tmp_path: Path) -> None:
    for name in "ab":
        for count in range(10):
            picture(tmp_path / name / f"{count}.png", (8, 8))
    found = tree.read(tmp_path)
    parts = [set(part.files.paths) for part in (found.train, found.test)]
    assert [len(part) for part in parts] == [16, 4]
    assert not parts[0] & parts[1]
    for part in (found.train, found.test):
        named = ["ab".index(path.parent.name) for path in part.files.paths]
        assert named == part.labels.tolist()


GIF = b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"  # Pillow would read it
DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "no image": lambda good: b"something else",
    "cut": lambda good: good[: len(good) // 2],
    "another format": lambda good: GIF,
    "PostScript": lambda good: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_image_is_named(tmp_path: Path, case: str, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(path)
    path.write_bytes(DAMAGED[case](path.read_bytes()))
    assert_refused(FormatError, name, lambda: tree.decode(path))


@pytest.mark.parametrize("times", [1.5, 3])
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float
) -> None:
    """Pillow itself only warns up to twice its limit."""
    picture(tmp_path / "a.png", (100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(10_000 / times))
    assert_refused(FormatError, "DecompressionBomb", lambda: tree.decode(tmp_path / "a.png"))


def test_decoding_leaves_the_warnings_of_others_alone(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    before = list(warnings.filters)
    tree.decode(tmp_path / "a.png")
    assert list(warnings.filters) == before


def test_folders_that_are_not_classes_of_images_are_refused(tmp_path: Path) -> None:
    folder = write_tree(tmp_path)
    picture(folder / "val/dog/a.png")
    assert_refused(FormatError, "dog is not among", lambda: load_data("images", folder))
    (folder / "val/dog/a.png").rename(folder / "val/cat/e.png")
    (folder / "val/dog").rmdir()
    (folder / "train/bee").mkdir()
    assert_refused(FormatError, "bee has no images", lambda: load_data("images", folder))
    assert_refused(FormatError, "two folders", lambda: load_data("images", folder / "val"))
    (folder / "val").rename(folder / "test")
    (folder / "train/bee").rmdir()
    assert_refused(
        InputNotFoundError, "no folders of images in .*val", lambda: load_data("images", folder)
    )


@pytest.mark.parametrize("place", ["train/cat/z.png", "train/dog", "train", "val"])
def test_names_are_not_followed_out_of_the_folder(tmp_path: Path, place: str) -> None:
    folder = write_tree(tmp_path / "in")
    outside = write_tree(tmp_path / "out")
    link = folder / place
    if link.exists():
        link.rename(tmp_path / "moved")
    target = outside / (place if link.name in ("train", "val") else "train/cat")
    link.symlink_to(target / "b.png" if link.suffix else target)
    assert_refused(FormatError, "leads out of", lambda: load_data("images", folder))


def test_a_link_within_the_folder_is_an_image(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "in")
    (folder / "train/ant/z.png").symlink_to(folder / "train/cat/b.png")
    (tmp_path / "link").symlink_to(folder)
    assert load_data("images", tmp_path / "link").task.train_y.tolist() == [0, 0, 1, 1]


def test_images_stand_in_their_folder_beside_others(tmp_path: Path) -> None:
    for name in ("imagenet/b/1.png", "imagenet/a/1.png", "screenshots/x/1.png"):
        for count in range(5):
            picture(tmp_path / name.replace("1", f"{count}"), (8, 8))
    data = load_data("images", tmp_path)
    assert data.about == "images: 2 classes, 8 training images, 2 held out"
    for place in ("train/c", "train/d", "train/e", "val/c"):
        picture(tmp_path / place / "1.png", (8, 8))
    assert load_data("images", tmp_path).classes == 3  # it is one itself
    (tmp_path / "train").rename(tmp_path / "of-trains")
    (tmp_path / "images").mkdir()
    assert_refused(InputNotFoundError, "in .*images:", lambda: load_data("images", tmp_path))


def test_what_is_no_regular_file_is_no_image(tmp_path: Path) -> None:
    folder = write_tree(tmp_path)
    os.mkfifo(folder / "train/cat/pipe.png")  # to open it is to wait
    assert_refused(FormatError, "pipe.png must be a regular", lambda: load_data("images", folder))
    assert_refused(FormatError, "must be a regular file", lambda: tree.decode(Path("/dev/null")))


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("images", write_tree(tmp_path))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert_refused(MissingExtraError, r"weightcast\[images\]", lambda: data.task.train_x[:1])


# ---- tuning


@pytest.mark.parametrize("name", ["mnist", "images"])
def test_tuning_looks_at_training_images_only(tmp_path: Path, name: str) -> None:
    if name == "mnist":
        whole = load_data("mnist", write_idx(tmp_path, train=60))
    else:
        for count in range(60):
            picture(tmp_path / f"train/{count % 3}/{count}.png", (8, 8), colour=4 * count)
        picture(tmp_path / "val/1/a.png")
        whole = load_data("images", tmp_path)
    part = whole.for_tuning()
    assert part.about == f"{whole.about}, a fifth held out"
    assert (len(part.task.train_x), len(part.task.validation_x)) == (48, 12)
    assert_same_images(whole, part)
    counts = torch.bincount(part.task.validation_y)
    assert counts.max() - counts.min() <= 1  # of each class as many, as nearly as it goes


def assert_same_images(whole: Data, part: Data) -> None:
    """Each training image is in one of the parts, with its label, and evaluated as it is there."""
    seen: set[tuple[bytes, int]] = set()
    for x, y in (
        (whole.plain(part.task.train_x[:]), part.task.train_y),
        (part.task.validation_x[:], part.task.validation_y),
    ):
        seen |= {(image.numpy().tobytes(), int(label)) for image, label in zip(x, y, strict=True)}
    every = whole.plain(whole.task.train_x[:])
    assert len(seen) == len(every)
    assert seen == {
        (image.contiguous().numpy().tobytes(), int(label))
        for image, label in zip(every, whole.task.train_y, strict=True)
    }


def test_tuning_of_tensors_is_that_of_the_task(tmp_path: Path) -> None:
    data = load_data("mnist", write_idx(tmp_path, train=60))
    part, task = data.for_tuning().task, data.task.for_tuning()
    assert torch.equal(part.train_x[:], task.train_x)
    assert torch.equal(part.validation_x[:], task.validation_x)
    assert torch.equal(part.train_y, task.train_y)


def test_too_few_images_to_hold_a_fifth_out() -> None:
    x, y = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 3])
    task: Any = SimpleNamespace(train_x=x, train_y=y)
    assert_refused(FormatError, "five of each", lambda: Data(task, {}, 4, "").for_tuning())


def test_pictures_index_like_a_tensor() -> None:
    x = torch.arange(20).reshape(5, 1, 2, 2)
    pictures = Pictures(x, torch.Tensor.float)
    some = Pictures(pictures, lambda p: central_crop(p, 1), torch.tensor([4, 0, 2]))
    assert len(pictures) == 5
    assert len(some) == 3
    assert torch.equal(pictures[1:3], x[1:3].float())
    assert torch.equal(some[torch.tensor([1, 1])], x[[0, 0]][:, :, :1, :1].float())


# ---- OpenML


def serve(monkeypatch: pytest.MonkeyPatch, x: object, y: object) -> list[str]:
    asked: list[str] = []

    def fetch_openml(name: str, **options: object) -> tuple[object, object]:
        assert options["return_X_y"]
        assert options["version"] == 1
        asked.append(name)
        return x, y

    monkeypatch.setattr(openml, "fetch_openml", fetch_openml)
    return asked


def as_served(labels: np.ndarray) -> np.ndarray:
    return np.array([str(label) for label in labels], object)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_openml_is_written_as_idx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (28, 784), np.uint8), (np.arange(28) % 10).astype(np.uint8)
    title = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}[name]
    known = {hashlib.sha256(idx(part)).hexdigest(): title for part in (y[:24], y[24:])}
    monkeypatch.setattr(openml, "LABELS", known)
    asked = serve(monkeypatch, x.astype(np.float64), as_served(y))
    paths = openml.fetch(name, tmp_path / "new")
    assert asked == [{"mnist": "mnist_784", "fashion": "Fashion-MNIST"}[name]]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    data = load_data(name, tmp_path / "new")
    pixels = torch.cat([data.task.train_x, data.task.validation_x]) * 255
    assert np.array_equal(pixels.round().reshape(28, 784), x)
    assert [len(data.task.train_y), len(data.task.validation_y)] == [24, 4]
    assert torch.cat([data.task.train_y, data.task.validation_y]).tolist() == y.tolist()
    assert_refused(OutputExistsError, "exists", lambda: openml.fetch(name, tmp_path / "new"))
    assert len(asked) == 1


def test_openml_is_written_as_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(0, 256, (60, 3072), np.uint8)
    y = np.arange(60) % 10
    serve(monkeypatch, x.astype(np.float64), as_served(y))
    openml.fetch("cifar10", tmp_path)
    data = load_data("cifar10", tmp_path)
    assert np.array_equal(data.task.train_x[:].reshape(50, 3072), x[:50])
    assert data.task.train_y.tolist() == y[:50].tolist()
    assert data.task.validation_y.tolist() == y[50:].tolist()


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("mnist", np.zeros((7, 784)), as_served(np.arange(7))),  # other labels than MNIST's
        ("mnist", np.zeros((7, 783)), as_served(np.arange(7))),
        ("mnist", np.full((7, 784), 0.5), as_served(np.arange(7))),
        ("mnist", np.full((7, 784), np.nan), as_served(np.arange(7))),
        ("mnist", np.zeros((7, 784)), np.array(["T-shirt"] * 7, object)),
        ("cifar10", np.zeros((60, 3072)), as_served(np.arange(60) // 6)),  # sorted by class
        ("cifar10", np.zeros((61, 3072)), as_served(np.arange(61) % 10)),
        ("cifar10", np.full((60, 3072), 256), as_served(np.arange(60) % 10)),
        ("cifar10", np.zeros((60, 3072)), as_served(np.arange(60) % 10 - 1)),
    ],
)
def test_what_is_not_the_data_set_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, x: np.ndarray, y: np.ndarray
) -> None:
    serve(monkeypatch, x, y)
    assert_refused(FormatError, "OpenML's", lambda: openml.fetch(name, tmp_path))
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_openml(name: str, **options: object) -> None:
        raise URLError("Temporary failure in\nname resolution")

    monkeypatch.setattr(openml, "fetch_openml", fetch_openml)
    for name, file in (("fashion", "t10k-labels-idx1-ubyte.gz"), ("cifar10", "test_batch.bin")):
        with pytest.raises(RemoteError, match=file) as caught:
            openml.fetch(name, tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert_refused(UsageError, "got 'images'", lambda: openml.fetch("images", tmp_path))
    assert not list(tmp_path.iterdir())
