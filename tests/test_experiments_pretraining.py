"""From raw data to a forecaster's file, small; N0, and the files that MNIST comes in."""

import gzip
import hashlib
import json
import shlex
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from weightcast.experiments.mnist import load_images, read_idx
from weightcast.experiments.networks import n0
from weightcast.experiments.pretraining import main
from weightcast.predictor import (
    Introspection,
    evaluate_dataset,
    evaluate_history,
    load_with_card,
    one_thread,
)
from weightcast.store import Dataset, FormatError, History, InputNotFoundError

SMALL = shlex.split("--steps 30 --every 1 --samples 4000 --fit-steps 200 --points 2 --seed 5")
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(values: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """An IDX file of bytes; its header may say another shape."""
    shape = values.shape if shape is None else shape
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + values.tobytes()


def write_mnist(folder: Path, seed: int = 0) -> Path:
    """Noise in MNIST's files: the training part as gzip, the test part plain."""
    random = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for part, count in (("train", 80), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = random.integers(0, 10, count).astype(np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            data, path = idx(values), folder / f"{part}-{name}-ubyte"
            if part == "train":
                path, data = path.with_name(f"{path.name}.gz"), gzip.compress(data)
            path.write_bytes(data)
    return folder


def run(*arguments: object) -> Result:
    with one_thread():
        return CliRunner().invoke(main, [str(a) for a in arguments])


def assert_refused(result: Result, code: int, *words: object) -> None:
    """One line on stderr, and nothing on stdout."""
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert all(str(word) in line for word in words), line


# ---- the whole of it, small


@dataclass(frozen=True)
class Made:
    data: Path
    work: Path
    file: Path
    result: Result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("pretraining")
    data, work, file = write_mnist(folder / "data"), folder / "work", folder / "a.safetensors"
    result = run("--data", data, "-o", file, "--work", work, *SMALL)
    assert result.exit_code == 0, result.stderr
    return Made(data, work, file, result)


def test_it_records_two_runs_of_n0_and_a_dataset(made: Made) -> None:
    names = {path.name for path in made.work.iterdir()}
    assert names == {"n0-seed5-30.zarr", "n0-seed6-30.zarr", "dataset.zarr"}
    first, second = (History(made.work / f"n0-seed{seed}-30.zarr") for seed in (5, 6))
    for history in (first, second):
        assert history.steps.tolist() == list(range(31))
        assert history.parameters.size == 551_818
        assert history.metric("accuracy")[0].tolist() == [30]
    assert not np.array_equal(first.snapshot(0), second.snapshot(0))
    dataset = Dataset(made.work / "dataset.zarr")
    assert (dataset.recipe.samples, dataset.recipe.seed) == (4000, 5)
    assert (dataset.recipe.context, dataset.recipe.horizon) == ((1.0, 0.7, 0.4, 0.0), 2.0)
    assert (dataset.recipe.shares, dataset.recipe.validation) == ((0.5, 0.25, 0.25), 0.1)
    assert {origin.path for origin in dataset.origins} == {str(first.path)}


def test_the_network_was_trained_as_the_paper_has_it(made: Made) -> None:
    """Adam at 1e-4: its first step moves every weight that has a gradient by the rate."""
    history = History(made.work / "n0-seed5-30.zarr")
    moved = np.abs(history.snapshot(1) - history.snapshot(0))
    assert np.median(moved[moved > 0]) == pytest.approx(1e-4, rel=1e-3)
    assert moved.max() < 1.01e-4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = torch.nn.utils.parameters_to_vector(n0().parameters())
    assert np.array_equal(first.detach().numpy(), history.snapshot(0))


def test_the_file_holds_the_forecaster_that_the_dataset_gives(made: Made) -> None:
    forecaster, _ = load_with_card(made.file)
    dataset = Dataset(made.work / "dataset.zarr")
    again = Introspection(steps=200, random_state=5).fit(
        dataset.X, dataset.y, rows=dataset.training_rows
    )
    for name, tensor in again.tensors().items():
        assert torch.equal(forecaster.tensors()[name], tensor)


def test_the_card_says_where_it_comes_from(made: Made) -> None:
    _, card = load_with_card(made.file)
    files = [p for p in made.data.iterdir() if p.is_file()]
    assert card["data"]["images"] == 80
    assert card["data"]["sha256"] == {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
    assert card["seed"] == 5
    assert card["plan"] == {
        "seed": 5,
        "steps": 30,
        "every": 1,
        "samples": 4000,
        "held_out": 0.1,
        "fit_steps": 200,
        "points": 2,
    }
    assert [run["seed"] for run in card["network"]["runs"]] == [5, 6]
    assert card["datasets"][0]["recipe"] == Dataset(made.work / "dataset.zarr").recipe.to_json()
    assert card["command"] == (
        "python -m weightcast.experiments.pretraining --data DATA -o a.safetensors --work WORK "
        "--seed 5 --steps 30 --every 1 --samples 4000 --fit-steps 200 --points 2"
    )
    assert card["datasets"][0]["path"] == "dataset.zarr"
    assert card["datasets"][0]["histories"][0]["path"] == "n0-seed5-30.zarr"
    assert str(made.work.parent) not in json.dumps(card)  # it will be published


def test_the_card_has_the_errors_that_can_be_measured_again(made: Made) -> None:
    forecaster, card = load_with_card(made.file)
    dataset = Dataset(made.work / "dataset.zarr")
    held_out = evaluate_dataset(forecaster, dataset, dataset.validation_rows)
    other = evaluate_history(forecaster, History(made.work / "n0-seed6-30.zarr"), points=2)
    assert card["errors"] == [e.to_json() for e in held_out]
    assert card["other_run"]["errors"] == [e.to_json() for e in other]
    assert held_out[-1].count == len(dataset.validation_rows) < 4000
    printed = json.loads(made.result.stdout.rpartition("saved ")[0])
    assert printed == [held_out[-1].to_json(), other[-1].to_json()]


def test_the_card_names_what_it_is_no_better_at(made: Made) -> None:
    """200 steps of a fit are too few: there is something to name, and it is all of it."""
    _, card = load_with_card(made.file)
    groups = [(e, "held-out weights") for e in card["errors"]]
    groups += [(e, "other run") for e in card["other_run"]["errors"]]
    worse = [e["forecaster"] >= min(e["last_value"], e["linear_fit"]) for e, _ in groups]
    assert any(worse)
    for (errors, where), named in zip(groups, worse, strict=True):
        assert (f"{errors['group']} ({where})" in card["caveat"]) == named


def test_progress_is_shown_to_the_end(made: Made) -> None:
    for seed in (5, 6):
        assert f"train N0, seed {seed}: 30/30\n" in made.result.stderr
    assert "fit: 200/200\n" in made.result.stderr


def test_what_is_done_already_is_not_done_again(made: Made, tmp_path: Path) -> None:
    stamps = {p: p.stat().st_mtime_ns for p in made.work.glob("n0-*.zarr/zarr.json")}
    file = tmp_path / "b.safetensors"
    result = run("--data", made.data, "-o", file, "--work", made.work, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "train N0" not in result.stderr
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert_same_forecaster(file, made.file)


def test_without_a_work_folder_nothing_is_left_and_the_result_is_the_same(
    made: Made, tmp_path: Path, temporary: Path
) -> None:
    file = tmp_path / "b.safetensors"
    result = run("--data", made.data, "-o", file, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert list(temporary.iterdir()) == []
    assert_same_forecaster(file, made.file)


@pytest.mark.parametrize("change", ["cut short", "another network", "no history"])
def test_a_history_that_will_not_do_is_recorded_again(
    made: Made, tmp_path: Path, change: str
) -> None:
    """A run that was interrupted, or made of other data, must not be taken for a whole one."""
    work = tmp_path / "work"
    shutil.copytree(made.work, work)
    header = work / "n0-seed5-30.zarr" / "zarr.json"
    document = json.loads(header.read_text())
    if change == "cut short":
        document["attributes"]["weightcast"]["metrics"] = {}
    elif change == "another network":
        document["attributes"]["weightcast"]["metadata"]["n0"]["every"] = 2
    else:
        document = {}
    header.write_text(json.dumps(document))
    file = tmp_path / "b.safetensors"
    if change == "no history":  # it is not ours to delete
        result = run("--data", made.data, "-o", file, "--work", work, *SMALL)
        assert_refused(result, 2, "n0-seed5-30.zarr", "choose another path")
        return
    result = run("--data", made.data, "-o", file, "--work", work, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "train N0, seed 5" in result.stderr
    assert "train N0, seed 6" not in result.stderr
    assert_same_forecaster(file, made.file)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def assert_same_forecaster(one: Path, other: Path) -> None:
    (a, card), (b, other_card) = load_with_card(one), load_with_card(other)
    for run in (*card["network"]["runs"], *other_card["network"]["runs"]):
        assert run.pop("seconds") >= 0
    for name, tensor in a.tensors().items():
        assert torch.equal(b.tensors()[name], tensor)
    for key in ("errors", "other_run", "network", "data"):
        assert card[key] == other_card[key]


# ---- refusals, before any training


def test_an_output_that_is_there_is_not_replaced(made: Made) -> None:
    before = made.file.read_bytes()
    result = run("--data", made.data, "-o", made.file, "--work", made.work, *SMALL)
    assert_refused(result, 2, made.file, "--overwrite")
    assert made.file.read_bytes() == before


def test_a_file_of_another_suffix_is_refused(made: Made, tmp_path: Path) -> None:
    result = run("--data", made.data, "-o", tmp_path / "a.pt", *SMALL)
    assert_refused(result, 2, "*.safetensors", "a.pt")


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    result = run("--data", tmp_path, "-o", tmp_path / "a.safetensors", *SMALL)
    assert_refused(result, 2, f"{IMAGES}.gz", tmp_path)


def test_damaged_data_is_one_line(tmp_path: Path) -> None:
    data = write_mnist(tmp_path / "data")
    path = data / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    result = run("--data", data, "-o", tmp_path / "a.safetensors", *SMALL)
    assert_refused(result, 1, path)


@pytest.mark.parametrize("option", ["--steps", "--every", "--samples", "--fit-steps"])
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, option: str) -> None:
    result = run("--data", tmp_path, "-o", tmp_path / "a.safetensors", option, "0")
    assert result.exit_code == 2
    assert option in result.stderr


def test_a_run_too_short_for_samples_is_one_line(made: Made, tmp_path: Path) -> None:
    result = run("--data", made.data, "-o", tmp_path / "a.safetensors", "--steps", 1)
    assert result.exit_code == 1
    assert "steps" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "a.safetensors").exists()


# ---- the network


def test_n0_has_the_papers_shapes() -> None:
    shapes = [tuple(p.shape) for p in n0().parameters()]
    assert shapes == [
        *((8, 1, 5, 5), (8,), (16, 8, 5, 5), (16,), (32, 16, 5, 5), (32,)),
        *((1024, 512), (1024,), (10, 1024), (10,)),
    ]
    assert sum(p.numel() for p in n0().parameters()) == 551_818
    x, sizes = torch.zeros(2, 1, 28, 28), []
    for layer in n0():
        x = layer(x)
        if isinstance(layer, torch.nn.MaxPool2d):
            sizes.append(x.shape[-1])
    assert sizes == [14, 7, 4]
    assert x.shape == (2, 10)


# ---- IDX files


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("shape", [(0,), (5,), (2, 3), (4, 28, 28)])
def test_idx_files_read_back(tmp_path: Path, pack, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "a").write_bytes(pack(idx(values)))
    found = read_idx(tmp_path / "a")
    assert found.dtype == np.uint8
    assert np.array_equal(found, values)


GOOD = idx(np.arange(6, dtype=np.uint8).reshape(2, 3))
BAD = {
    "empty": (b"", "begins with"),
    "another format": (b"PK\3\4 a zip archive", "begins with"),
    "float numbers": (b"\0\0\x0d\1" + bytes(8), "begins with"),
    "header cut": (GOOD[:9], "truncated"),
    "numbers cut": (GOOD[:-1], "it holds 5"),
    "more than it says": (GOOD + b"\0", "it holds more"),
    "a hundred dimensions": (b"\0\0\x08\x64" + b"\0\0\0\1" * 100 + b"\1", "it has 100"),
    "no dimension": (b"\0\0\x08\0\1", "it has 0"),
    "nothing of terabytes": (idx(np.zeros(0, np.uint8), (0, 1 << 31, 1 << 31)), "claims"),
    "terabytes": (idx(np.zeros(0, np.uint8), (1 << 31, 1 << 31)), "claims"),
    "gzip cut": (gzip.compress(GOOD)[:-9], "truncated"),
    "gzip damaged": (gzip.compress(GOOD)[:-6] + b"\0" * 6, "truncated"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_idx_files_are_refused(tmp_path: Path, case: str) -> None:
    data, words = BAD[case]
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        read_idx(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_idx_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no file"):
        read_idx(tmp_path / "a")


def test_images_are_between_0_and_1_in_order(tmp_path: Path) -> None:
    x, y = load_images(write_mnist(tmp_path), "train")
    assert (x.dtype, x.shape, y.dtype, y.shape) == (
        *(torch.float32, (80, 1, 28, 28)),
        *(torch.int64, (80,)),
    )
    raw = read_idx(tmp_path / f"{IMAGES}.gz")
    np.testing.assert_allclose(x[:, 0].numpy() * 255, raw, rtol=1e-6)
    assert y.tolist() == read_idx(tmp_path / f"{LABELS}.gz").tolist()
    test = load_images(tmp_path, "t10k")
    assert len(test[0]) == len(test[1]) == 20


def test_a_plain_file_wins_over_a_packed_one(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    labels = np.arange(80, dtype=np.uint8) % 10
    (tmp_path / LABELS).write_bytes(idx(labels))
    assert load_images(tmp_path, "train")[1].tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (IMAGES, np.zeros((80, 28, 27), np.uint8)),
        (IMAGES, np.zeros((80 * 28, 28), np.uint8)),
        (LABELS, np.zeros(79, np.uint8)),
        (LABELS, np.full(80, 10, np.uint8)),
        (LABELS, np.zeros((80, 1), np.uint8)),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, values: np.ndarray
) -> None:
    write_mnist(tmp_path)
    (tmp_path / name).write_bytes(idx(values))
    with pytest.raises(FormatError, match="labels"):
        load_images(tmp_path, "train")


def test_a_part_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / IMAGES).write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    (tmp_path / LABELS).write_bytes(idx(np.zeros(0, np.uint8)))
    with pytest.raises(FormatError, match="labels"):
        load_images(tmp_path, "train")
