"""Files of every format version are decoded for ever, and what is written today decodes the same.

The values stand here a second time, apart from `golden.make_golden`, so that a change there does
not change what the files are held against.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import zarr
from golden import make_golden
from store_reference import files, same_bits

from weightcast.store import Dataset, History, Recipe, WeightcastWarning, rebuild_dataset
from weightcast.store.rounded import decode

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module", params=["golden", "written today"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "golden":
        return GOLDEN
    fresh = tmp_path_factory.mktemp("fresh")
    make_golden.main(fresh)
    return fresh


@pytest.fixture(scope="module", params=["history-v1.zarr", "history-v1-compact.zarr"])
def lossless(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def history(folder: Path, lossless: str) -> History:
    return History(folder / lossless)


@pytest.fixture(scope="module")
def bounded(folder: Path) -> History:
    return History(folder / "history-v1-bounded.zarr")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Of format 1, which nothing writes any more."""
    return Dataset(GOLDEN / "dataset-v1.zarr")


@pytest.fixture(scope="module")
def dataset_v2() -> Dataset:
    """Nothing writes it any more, either."""
    return Dataset(GOLDEN / "dataset-v2.zarr")


@pytest.fixture(scope="module")
def dataset_v3(folder: Path) -> Dataset:
    return Dataset(folder / "dataset-v3.zarr")


def float32(rows: list[object]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_header_of_history_v1(history: History, lossless: str) -> None:
    info = history.info()
    assert info.parameters == [
        ("fc.weight", (2, 5), "bfloat16", "weight"),
        ("fc.bias", (2,), "float32", "bias"),
    ]
    assert [(p.name, p.shape, p.offset) for p in history.buffers] == [("bn.running_mean", (2,), 0)]
    assert info.schedule == "every:1"
    assert info.preset == ("compact" if "compact" in lossless else "fast")
    assert info.error is None
    assert info.versions.keys() == {"weightcast", "torch"}
    assert info.versions["torch"] == "2.13.0"
    assert info.metadata == {"seed": 7, "note": "golden"}
    assert info.chunks == (12, 2)


def test_steps_and_metric_of_history_v1(history: History) -> None:
    assert same_bits(history.steps, np.array([0, 1, 2, 4, 8]))
    assert same_bits(history.times, np.array([0.0, 0.25, 0.5, 1.0, 2.5]))
    assert history.metrics == ["loss"]
    steps, values = history.metric("loss")
    assert same_bits(steps, np.array([1, 2, 8]))
    assert same_bits(values, np.array([2.5, 1.25, 0.5]))


def test_weights_of_history_v1(history: History) -> None:
    weight = [
        [[0.5, -1.0, 2.0, 0.25, 3.0], [-0.5, 1.5, -2.5, 0.125, 4.0]],
        [[0.75, -1.5, 2.25, 0.5, 2.0], [-0.25, 1.0, -2.0, 0.375, 4.5]],
        [[1.0, -2.0, 2.5625, 0.375, 1.5], [0.25, 0.75, -1.875, 0.3125, 4.8125]],
        [[1.375, -3.0, 1.875, 0.8125, 0.9375], [0.5, 0.4375, -1.25, 0.9375, 5.5625]],
        [[1.5, -4.0, 3.0, 1.25, 0.5], [0.75, 0.125, -1.0, 1.0, 6.0]],
    ]
    bias = [[0.0, 1.0], [0.5, 1.0], [0.6875, 1.0], [1.1875, 1.0], [1.5, 1.0]]
    assert same_bits(history["fc.weight"], float32(weight))
    assert same_bits(history["fc.bias"], float32(bias))
    for row, step in enumerate([0, 1, 2, 4, 8]):
        assert same_bits(
            history.snapshot(step), float32([*weight[row][0], *weight[row][1], *bias[row]])
        )


def test_buffers_of_history_v1(history: History) -> None:
    expected = {
        0: [0.0, -0.0],
        1: [1e-300, 0.1],
        2: [math.inf, -math.inf],
        4: [math.nan, 5e-324],
        8: [1.0, -1.0],
    }
    for step, values in expected.items():
        assert same_bits(history.state(step)["bn.running_mean"], np.array(values))


def test_header_of_bounded_history_v1(bounded: History) -> None:
    assert (bounded.info().preset, bounded.info().error) == ("bounded", 0.02)


def test_weights_of_bounded_history_v1(bounded: History) -> None:
    """Two full chunks are rounded to 0.039375; the last, which may still fill up, is exact."""
    rounded = {
        0: [13, -25, 51, 6, 76, -13, 38, -63, 3, 102, 0, 25],
        1: [19, -38, 57, 13, 51, -6, 25, -51, 10, 114, 13, 25],
        2: [25, -51, 65, 10, 38, 6, 19, -48, 8, 122, 17, 25],
        4: [35, -76, 48, 21, 24, 13, 11, -32, 24, 141, 30, 25],
    }
    for step, values in rounded.items():
        assert same_bits(bounded.snapshot(step), (np.array(values) * 0.039375).astype(np.float32))
    last = [1.5, -4.0, 3.0, 1.25, 0.5, 0.75, 0.125, -1.0, 1.0, 6.0, 1.5, 1.0]
    assert same_bits(bounded.snapshot(8), float32(last))


def test_everything_but_the_weights_of_a_bounded_history_v1_is_exact(bounded: History) -> None:
    assert same_bits(bounded.times, np.array([0.0, 0.25, 0.5, 1.0, 2.5]))
    assert same_bits(bounded.state(1)["bn.running_mean"], np.array([1e-300, 0.1]))
    assert same_bits(bounded.state(4)["bn.running_mean"], np.array([math.nan, 5e-324]))


def test_chunks_of_bounded_v1(folder: Path) -> None:
    """Each way of storing a chunk: what it is to decode to stands in the file."""
    chunks = json.loads((folder / "bounded-v1.json").read_text())
    assert [bytes.fromhex(c["payload"])[0] for c in chunks] == [1, 1, 1, 1, 1, 0, 0]
    for c in chunks:
        dtype = np.dtype(c["dtype"])
        decoded = decode(bytes.fromhex(c["payload"]), tuple(c["shape"]), dtype, c["error"])
        expected = np.frombuffer(bytes.fromhex(c["decoded"]), dtype).reshape(c["shape"])
        assert same_bits(decoded, expected), c["name"]


def test_layout_of_history_v1(folder: Path, lossless: str) -> None:
    """What a reader other than ours relies on: paths, shapes, dtypes and dimension names."""
    group = zarr.open_group(folder / lossless, mode="r")
    arrays = {
        name: (array.shape, str(array.dtype), array.metadata.dimension_names)
        for name, array in group.members(max_depth=None)
        if isinstance(array, zarr.Array)
    }
    assert arrays == {
        "weights": ((12, 5), "float32", ("parameter", "step")),
        "buffers": ((2, 5), "float64", ("buffer", "step")),
        "step": ((5,), "int64", ("step",)),
        "time": ((5,), "float64", ("step",)),
        "metrics/loss/step": ((3,), "int64", ("entry",)),
        "metrics/loss/value": ((3,), "float64", ("entry",)),
    }


def test_header_of_dataset_v1(dataset: Dataset) -> None:
    assert dataset.version == 1
    assert dataset.source == "history-v1.zarr"
    assert dataset.recipe == Recipe(
        samples=8,
        context=(1.0, 0.5, 0.0),
        horizon=2.0,
        edges=(0.0, 0.5, 0.75, 1.0),
        shares=(0.5, 0.25, 0.25),
        seed=4,
        tolerance=0.01,
    )


def test_samples_of_dataset_v1(dataset: Dataset) -> None:
    x = [
        [-2.0, -1.5, -1.0],
        [2.5625, 2.25, 2.0],
        [0.25, -0.25, -0.5],
        [0.4375, 0.75, 1.5],
        [-1.25, -1.875, -2.5],
        [0.3125, 0.375, 0.125],
        [1.1875, 0.6875, 0.0],
        [1.0, 1.0, 1.0],
    ]
    assert same_bits(np.array(dataset.X), float32(x))
    assert same_bits(
        np.array(dataset.y), float32([-3.0, 1.875, 0.5, 0.125, -1.0, 0.9375, 1.5, 1.0])
    )
    assert same_bits(np.array(dataset.parameter), np.array([1, 2, 5, 6, 7, 8, 10, 11]))
    assert same_bits(np.array(dataset.step), np.array([2, 2, 2, 4, 4, 2, 4, 4]))
    assert same_bits(np.array(dataset.stratum), np.array([0, 1, 1, 0, 0, 2, 0, 2], np.int8))
    assert same_bits(
        np.array(dataset.variation), float32([1.0, 0.5625, 0.75, 1.0625, 1.25, 0.1875, 1.1875, 0.0])
    )
    assert same_bits(dataset.target, 2 * np.array(dataset.step))
    assert same_bits(np.array(dataset.horizon), np.zeros(8, np.int8))
    assert dataset.tables is None
    assert dataset.kinds() is None
    assert same_bits(np.array(dataset.run), np.zeros(8, np.int32))
    assert same_bits(np.array(dataset.validation), np.zeros(8, bool))


def test_header_of_dataset_v2(dataset_v2: Dataset) -> None:
    assert dataset_v2.version == 2
    assert dataset_v2.recipe == Recipe(
        samples=20,
        context=(1.0, 0.5, 0.0),
        horizon=2.0,
        edges=(0.0, 0.1, 0.95, 1.0),
        shares=(0.4, 0.4, 0.2),
        seed=4,
        tolerance=0.01,
        t_min=None,
        t_max=4,
        t_distribution="log",
        draws=None,
        include=("fc.*",),
        exclude=(),
        run_shares=(3.0, 1.0),
        validation=0.3,
        validation_by="weight",
        shortfall="fewer",
    )
    digest = "30a786b55a250af79a87ed12e882d49df1c5f71678369f730eaa92c1c4a37a11"
    origins = dataset_v2.origins  # a path is absolute: where it was drawn
    assert [(Path(o.path).name, o.recorded, o.digest, o.draws) for o in origins] == [
        ("history-v1.zarr", 5, digest, 2),
        ("history-v1-compact.zarr", 5, digest, 2),
    ]
    assert [o.candidates for o in dataset_v2.origins] == [(2, 21, 1)] * 2
    assert [o.wanted for o in dataset_v2.origins] == [(6, 6, 3), (2, 2, 1)]
    assert [o.samples for o in dataset_v2.origins] == [(2, 6, 1), (2, 2, 1)]
    assert [o.ties for o in dataset_v2.origins] == [(1, 2, 0)] * 2


def test_samples_of_dataset_v2(dataset_v2: Dataset) -> None:
    x = [
        [1.375, 1.0, 0.5],
        [-2.0, -1.5, -1.0],
        [-3.0, -2.0, -1.0],
        [1.875, 2.5625, 2.0],
        [0.9375, 1.5, 3.0],
        [0.5, 0.25, -0.5],
        [0.9375, 0.3125, 0.125],
        [5.5625, 4.8125, 4.0],
        [1.0, 1.0, 1.0],
        [1.375, 1.0, 0.5],
        [-3.0, -2.0, -1.0],
        [0.9375, 1.5, 3.0],
        [0.5, 0.25, -0.5],
        [1.0, 1.0, 1.0],
    ]
    y = [1.5, -3.0, -4.0, 3.0, 0.5, 0.75, 1.0, 6.0, 1.0, 1.5, -4.0, 0.5, 0.75, 1.0]
    moved = [0.875, 1.0, 2.0, 0.125, 2.0625, 1.0, 0.8125, 1.5625, 0.0]
    moved += [0.875, 2.0, 2.0625, 1.0, 0.0]
    expected = {
        "X": float32(x),
        "y": float32(y),
        "parameter": np.array([0, 1, 1, 2, 4, 5, 8, 9, 11, 0, 1, 4, 5, 11]),
        "step": np.array([4, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 2]),
        "stratum": np.array([1, 1, 0, 1, 0, 1, 1, 1, 2, 1, 0, 0, 1, 2], np.int8),
        "variation": float32(moved),
        "run": np.repeat(np.int32([0, 1]), [9, 5]),
        "validation": np.isin(np.arange(14), [0, 3, 7, 9]),
    }
    for name, values in expected.items():
        assert same_bits(np.array(getattr(dataset_v2, name)), values), name


def test_layout_of_dataset_v2() -> None:
    group = zarr.open_group(GOLDEN / "dataset-v2.zarr", mode="r")
    arrays = {name: (array.shape, str(array.dtype)) for name, array in group.arrays()}
    assert arrays == {
        "X": ((14, 3), "float32"),
        "y": ((14,), "float32"),
        "parameter": ((14,), "int64"),
        "step": ((14,), "int64"),
        "stratum": ((14,), "int8"),
        "variation": ((14,), "float32"),
        "run": ((14,), "int32"),
        "validation": ((14,), "bool"),
    }


def test_dataset_v2_is_rebuilt_from_the_histories_of_that_time(tmp_path: Path) -> None:
    """What sampling means does not change: neither histories nor draws. It comes as format 3."""
    histories = [GOLDEN / "history-v1.zarr", GOLDEN / "history-v1-compact.zarr"]
    with pytest.warns(WeightcastWarning, match="too few candidates"):
        rebuild_dataset(GOLDEN / "dataset-v2.zarr", tmp_path / "again.zarr", histories=histories)
    again, golden = files(tmp_path / "again.zarr"), files(GOLDEN / "dataset-v2.zarr")
    assert {name: again[name] for name in golden} == golden
    new = {Path(name).parts[0] for name in again.keys() - golden.keys()}
    assert new == {"target", "horizon"}
    opened = Dataset(tmp_path / "again.zarr")
    old = Dataset(GOLDEN / "dataset-v2.zarr")
    assert same_bits(np.array(opened.target), old.target)
    assert same_bits(np.array(opened.horizon), np.array(old.horizon))


def test_header_of_dataset_v3(dataset_v3: Dataset) -> None:
    assert dataset_v3.version == 3
    assert dataset_v3.recipe == Recipe(
        samples=20,
        context=(
            *(1.0, 0.5, "t-2", "mean:2/2", "slope:2/2", "spread:2/2"),
            *("scale", "size", "fan-in", "dims", "step", "ahead", "ratio"),
        ),
        horizon=(2.0, "+6"),
        seed=4,
        validation=0.3,
    )
    origins = dataset_v3.origins
    assert [Path(o.path).name for o in origins] == ["history-v1.zarr", "history-v1-compact.zarr"]
    assert [o.table for o in origins] == [0, 0]
    assert dataset_v3.tables == (make_golden.TABLE, make_golden.TABLE)
    kinds = dataset_v3.kinds()
    assert kinds is not None
    assert [kinds.tolist().count(kind) for kind in ("weight", "bias")] == [16, 4]


def test_samples_of_dataset_v3(dataset_v3: Dataset) -> None:
    """Columns 0 to 4 are past values, the mean and the slope; others follow from t and tensor."""
    seen = [
        [1.0, 0.75, 0.5, 0.75, 0.5],
        [-3.0, -2.0, -2.0, -2.5, -1.0],
        [2.5625, 2.25, 2.0, 2.28125, 0.5625],
        [1.5, 2.0, 3.0, 2.25, -1.5],
        [0.25, -0.25, -0.5, -0.125, 0.75],
        [0.75, 1.0, 1.5, 1.125, -0.75],
        [-1.25, -1.875, -1.875, -1.5625, 0.625],
        [0.3125, 0.375, 0.125, 0.21875, 0.1875],
        [1.1875, 0.6875, 0.6875, 0.9375, 0.5],
        [1.0, 1.0, 1.0, 1.0, 0.0],
        [1.375, 1.0, 1.0, 1.1875, 0.375],
        [-2.0, -1.5, -1.0, -1.5, -1.0],
        [1.875, 2.5625, 2.5625, 2.21875, -0.6875],
        [0.25, -0.25, -0.5, -0.125, 0.75],
        [0.75, 1.0, 1.5, 1.125, -0.75],
        [-1.25, -1.875, -1.875, -1.5625, 0.625],
        [0.9375, 0.3125, 0.3125, 0.625, 0.625],
        [4.8125, 4.5, 4.0, 4.40625, 0.8125],
        [1.1875, 0.6875, 0.6875, 0.9375, 0.5],
        [1.0, 1.0, 1.0, 1.0, 0.0],
    ]
    expected = {
        "y": float32(
            [
                1.375,
                -4.0,
                1.875,
                0.9375,
                0.5,
                0.125,
                -1.0,
                0.9375,
                1.5,
                1.0,
                1.5,
                -3.0,
                3.0,
                0.75,
                0.4375,
                -1.0,
                1.0,
                6.0,
                1.5,
                1.0,
            ]
        ),
        "parameter": np.array([0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 0, 1, 2, 5, 6, 7, 8, 9, 10, 11]),
        "step": np.array([2, 4, 2, 2, 2, 2, 4, 2, 4, 2, 4, 2, 4, 2, 2, 4, 4, 2, 4, 4]),
        "stratum": np.array([1, 0, 1, 0, 1, 0, 0, 2, 0, 2, 0, 0, 2, 1, 1, 0, 0, 1, 0, 2], np.int8),
        "variation": float32(
            [
                0.5,
                2.0,
                0.5625,
                1.5,
                0.75,
                0.75,
                1.25,
                0.1875,
                1.1875,
                0.0,
                0.875,
                1.0,
                0.125,
                0.75,
                0.75,
                1.25,
                0.8125,
                0.8125,
                1.1875,
                0.0,
            ]
        ),
        "run": np.repeat(np.int32([0, 1]), [10, 10]),
        "validation": np.isin(np.arange(20), [0, 2, 10, 12, 17]),
        "target": np.array([4, 8, 4, 4, 4, 8, 8, 4, 8, 8, 8, 4, 8, 8, 4, 8, 8, 8, 8, 8]),
        "horizon": np.array([0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0], np.int8),
    }
    for name, values in expected.items():
        assert same_bits(np.array(getattr(dataset_v3, name)), values), name
    assert same_bits(np.array(dataset_v3.X[:, :5]), float32(seen))
    assert not dataset_v3.X[:, 5].any()  # a line through two values leaves nothing
    t, target = expected["step"], expected["target"]
    in_weight = expected["parameter"] < 10
    facts = {
        "scale": np.where(in_weight, np.float32(1.9768188), np.float32(0.70710677)),
        "size": np.where(in_weight, 10, 2),
        "fan-in": np.where(in_weight, 5, 1),
        "dims": np.where(in_weight, 2, 1),
        "step": t,
        "ahead": target - t,
        "ratio": target / t,
    }
    for name, values in facts.items():
        assert same_bits(dataset_v3.inputs(name)[:, 0].copy(), values.astype(np.float32)), name


def test_layout_of_dataset_v3(folder: Path) -> None:
    group = zarr.open_group(folder / "dataset-v3.zarr", mode="r")
    arrays = {name: (array.shape, str(array.dtype)) for name, array in group.arrays()}
    assert arrays == {
        "X": ((20, 13), "float32"),
        "y": ((20,), "float32"),
        "parameter": ((20,), "int64"),
        "step": ((20,), "int64"),
        "stratum": ((20,), "int8"),
        "variation": ((20,), "float32"),
        "run": ((20,), "int32"),
        "validation": ((20,), "bool"),
        "target": ((20,), "int64"),
        "horizon": ((20,), "int8"),
    }


def test_dataset_v3_is_rebuilt_from_the_histories_of_that_time(tmp_path: Path) -> None:
    histories = [GOLDEN / "history-v1.zarr", GOLDEN / "history-v1-compact.zarr"]
    rebuild_dataset(GOLDEN / "dataset-v3.zarr", tmp_path / "again.zarr", histories=histories)
    assert files(tmp_path / "again.zarr") == files(GOLDEN / "dataset-v3.zarr")
