"""Whatever stands on disk, reading it gives the truth or one of our errors, in one line."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import Recorded, refuses, vector, wandering

from weightcast.store import (
    Dataset,
    FormatError,
    History,
    HistoryWriter,
    InputNotFoundError,
    ParameterTable,
    WeightcastError,
    build_dataset,
    describe_dataset,
    open_stored,
)

OPENERS = [History, Dataset, open_stored, HistoryWriter.open]
Damage = Callable[[Path], object]


def make_history(path: Path) -> Path:
    """A history of 6 steps with buffers and a metric; appends end within a chunk."""
    walk = wandering(5, 6)
    table = ParameterTable.of([("mean", (2,), "float32", "buffer")])
    recorded = Recorded(walk.table, walk.steps, walk.weights, table, np.ones((6, 2)))
    recorded.write(path, width=3)
    with HistoryWriter.open(path) as writer:
        writer.log("loss", [1, 2], [0.5, 0.25])
    return path


@pytest.fixture(scope="module")
def intact_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_history(tmp_path_factory.mktemp("intact") / "run.zarr")


@pytest.fixture(scope="module")
def intact_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    wandering(8, 30).write(folder / "run.zarr")
    build_dataset(folder / "run.zarr", folder / "data.zarr", 20)
    return folder / "data.zarr"


@pytest.fixture
def history(tmp_path: Path, intact_history: Path) -> Path:
    return shutil.copytree(intact_history, tmp_path / "run.zarr")


@pytest.fixture
def dataset(tmp_path: Path, intact_dataset: Path) -> Path:
    return shutil.copytree(intact_dataset, tmp_path / "data.zarr")


@pytest.fixture(scope="module")
def fuzzed_history(tmp_path_factory: pytest.TempPathFactory, intact_history: Path) -> Path:
    """A copy whose header the fuzz rewrites, from the one kept in ``intact.json``."""
    path = shutil.copytree(intact_history, tmp_path_factory.mktemp("fuzzed") / "run.zarr")
    return Path(shutil.copy(path / "zarr.json", path / "intact.json")).parent


@pytest.fixture(scope="module")
def fuzzed_dataset(tmp_path_factory: pytest.TempPathFactory, intact_dataset: Path) -> Path:
    path = shutil.copytree(intact_dataset, tmp_path_factory.mktemp("fuzzed") / "data.zarr")
    return Path(shutil.copy(path / "zarr.json", path / "intact.json")).parent


def read_everything(path: Path) -> None:
    """Open a history and use every way to read it."""
    opened = History(path)
    repr(opened)
    opened.info()
    for step in opened.steps:
        opened.snapshot(int(step))
        opened.state(int(step))
    for p in opened.parameters:
        assert opened[p.name].shape == (len(opened), *p.shape)
    assert len(opened.times) == len(opened)
    for name in opened.metrics:
        steps, values = opened.metric(name)
        assert len(steps) == len(values) == opened.header.metrics[name]


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def header(change: Callable[[Any], object]) -> Damage:
    return lambda path: edit(path / "zarr.json", lambda d: change(d["attributes"]["weightcast"]))


def test_intact_is_read(history: Path, dataset: Path) -> None:
    read_everything(history)
    assert len(Dataset(dataset)) == 20


@pytest.mark.parametrize("opener", OPENERS)
def test_nothing_there(tmp_path: Path, opener) -> None:
    with refuses(InputNotFoundError, tmp_path / "no.zarr"):
        opener(tmp_path / "no.zarr")
    with pytest.raises(FileNotFoundError):
        opener(tmp_path / "no.zarr")


def foreign_array(path: Path) -> None:
    zarr.create_array(path, shape=(3,), dtype="float32")


def format_2(path: Path) -> None:
    group = zarr.create_group(path, zarr_format=2)
    group.attrs["weightcast"] = {"format": 1, "parameters": []}


NOT_OURS: dict[str, Damage] = {
    "file": lambda path: path.write_text("hello"),
    "empty folder": Path.mkdir,
    "foreign folder": lambda path: (path / "sub").mkdir(parents=True),
    "foreign group": lambda path: zarr.create_group(path, attributes={"a": 1}),
    "foreign array": foreign_array,
    "format 2": format_2,
}


@pytest.mark.parametrize("case", NOT_OURS)
@pytest.mark.parametrize("opener", OPENERS)
def test_what_is_not_ours_is_refused(tmp_path: Path, case: str, opener) -> None:
    path = tmp_path / "x.zarr"
    NOT_OURS[case](path)
    before = sorted(path.rglob("*"))
    with refuses(FormatError, path):
        opener(path)
    assert sorted(path.rglob("*")) == before


GARBAGE = [b"", b"null", b"5", b"[]", b"{}", b'"a"', b"\xff\xfe", b"{", b"[" * 50_000]
GARBAGE += [
    b'{"zarr_format": 3, "node_type": "group", "attributes": %s}' % x for x in (b"5", b"[]")
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda g: repr(g[-14:]))
@pytest.mark.parametrize("opener", OPENERS)
def test_garbage_in_the_header_is_refused(history: Path, garbage: bytes, opener) -> None:
    (history / "zarr.json").write_bytes(garbage)
    with refuses(FormatError, history):
        opener(history)


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda g: repr(g[-14:]))
@pytest.mark.parametrize("array", ["weights", "step", "time", "buffers", "metrics/loss/value"])
def test_garbage_in_an_array_is_refused(history: Path, array: str, garbage: bytes) -> None:
    (history / array / "zarr.json").write_bytes(garbage)
    with refuses(FormatError, history, array):
        read_everything(history)


@pytest.mark.parametrize("array", ["weights", "step", "time", "buffers", "metrics/loss/step"])
def test_an_array_that_is_gone_is_refused(history: Path, array: str) -> None:
    shutil.rmtree(history / array)
    with refuses(FormatError, history, array):
        read_everything(history)


def one_entry_short(document: dict[str, Any]) -> None:
    document["shape"][-1] = 1


@pytest.mark.parametrize("array", ["weights", "step", "time", "buffers", "metrics/loss/value"])
def test_an_array_shorter_than_what_is_committed_is_refused(history: Path, array: str) -> None:
    edit(history / array / "zarr.json", one_entry_short)
    with refuses(FormatError, history):
        read_everything(history)


@pytest.mark.parametrize(("array", "dtype"), [("weights", "int32"), ("step", "float64")])
def test_an_array_of_another_dtype_is_refused(history: Path, array: str, dtype: str) -> None:
    edit(history / array / "zarr.json", lambda d: d.update(data_type=dtype, fill_value=0))
    with refuses(FormatError, history, array):
        read_everything(history)


CHUNKS = ["weights/c/0/0", "weights/c/1/1", "step/c/0", "time/c/0", "buffers/c/0/0"]
CHUNKS += ["metrics/loss/value/c/0", "metrics/loss/step/c/0"]


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("kept", [0, 1, 3, 4, 5, 20, -1])
def test_a_truncated_chunk_is_refused(history: Path, chunk: str, kept: int) -> None:
    (history / chunk).write_bytes((history / chunk).read_bytes()[:kept])
    with refuses(FormatError, history, chunk.split("/c/")[0]):
        read_everything(history)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_every_flipped_byte_is_noticed(history: Path, chunk: str) -> None:
    data = (history / chunk).read_bytes()
    for at in range(0, len(data), max(1, len(data) // 12)):
        (history / chunk).write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with refuses(FormatError, history, chunk.split("/c/")[0]):
            read_everything(history)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_missing_chunk_is_noticed(history: Path, chunk: str) -> None:
    # zarr itself would give the fill value, which looks like a weight that became NaN
    (history / chunk).unlink()
    with refuses(FormatError, history):
        read_everything(history)


def test_appending_to_a_damaged_chunk_is_refused(history: Path) -> None:
    chunk = history / "weights/c/0/1"  # half full: the next append would rewrite it
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with refuses(FormatError, history), HistoryWriter.open(history) as writer:
        writer.append([6], [0.0], np.zeros((1, 5), np.float32), np.zeros((1, 2)))


@pytest.mark.parametrize("array", ["weights", "buffers", "step", "time"])
def test_appending_to_an_array_that_is_gone_is_refused(history: Path, array: str) -> None:
    with HistoryWriter.open(history) as writer, refuses(FormatError, history, array):
        shutil.rmtree(history / array)
        writer.append([6], [0.0], np.zeros((1, 5), np.float32), np.zeros((1, 2)))


def other_table(rows: list[tuple[Any, ...]], name: str = "parameters") -> Damage:
    return header(lambda h: h.update({name: ParameterTable.of(rows).to_json()}))


def repeat_step(path: Path) -> None:
    group = zarr.open_group(path, mode="r+")
    group["step"][3] = 2


HEADERS: dict[str, tuple[Damage, str]] = {
    "newer format": (header(lambda h: h.update(format=2)), "upgrade"),
    "format 0": (header(lambda h: h.update(format=0)), "format"),
    "format as text": (header(lambda h: h.update(format="1")), "format"),
    "no format": (header(lambda h: h.pop("format")), "format"),
    "no table": (header(lambda h: h.pop("parameters")), "parameter table"),
    "table too long": (other_table([("w", (6,), "float32", "weight")]), "6 parameters"),
    "table too short": (other_table([("w", (4,), "float32", "weight")]), "4 parameters"),
    "empty table": (other_table([]), "0 parameters"),
    "buffers too long": (other_table([("m", (3,), "float32", "buffer")], "buffers"), "buffers"),
    "buffers too short": (other_table([("m", (1,), "float32", "buffer")], "buffers"), "buffers"),
    "name twice": (header(lambda h: h["parameters"].append(h["parameters"][0])), "unique"),
    "gap": (header(lambda h: h["parameters"][0].update(offset=1)), "contiguous"),
    "negative size": (header(lambda h: h["parameters"][0].update(shape=[-5])), "table"),
    "fraction": (header(lambda h: h["parameters"][0].update(shape=[5.0])), "table"),
    "kind": (header(lambda h: h["parameters"][0].update(kind="?")), "table"),
    "no name": (header(lambda h: h["parameters"][0].pop("name")), "name"),
    "committed too much": (header(lambda h: h.update(committed=7)), "7 steps"),
    "committed negative beside a metric of that name": (
        header(lambda h: h.update(committed=-1, metrics={"steps": 0, "committed": 0})),
        "-1",
    ),
    "committed negative": (header(lambda h: h.update(committed=-1)), "-1"),
    "committed as truth": (header(lambda h: h.update(committed=True)), "True"),
    "metrics as list": (header(lambda h: h.update(metrics=["loss"])), "metric"),
    "metric path": (header(lambda h: h.update(metrics={"../w": 1})), "metric"),
    "metric infinite": (header(lambda h: h.update(metrics={"loss": float("inf")})), "loss"),
    "metric negative": (header(lambda h: h.update(metrics={"loss": -1})), "loss"),
    "metric too long": (header(lambda h: h.update(metrics={"loss": 3})), "loss"),
    "metric unknown": (header(lambda h: h.update(metrics={"val": 1})), "val"),
    "steps repeat": (repeat_step, "increase"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_wrong_header_is_refused(history: Path, case: str) -> None:
    damage, word = HEADERS[case]
    damage(history)
    with refuses(FormatError, history, word):
        read_everything(history)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 8)
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["loss", "w", "weight", "float32", "float64", "2", 10**30])
    | st.sampled_from([float("inf"), float("nan"), [3], [10**30, 0]]).map(copy.deepcopy),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["name", "loss"]), inner, max_size=3
        )
    ),
    max_leaves=4,
)


def slots(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    if not isinstance(node, dict | list):
        return []
    keys = list(node) if isinstance(node, dict) else range(len(node))
    return [pair for key in keys for pair in ((node, key), *slots(node[key]))]


def near(value: Any) -> st.SearchStrategy[Any]:
    """What a careless writer, or one bad bit, could have put instead of a number."""
    if type(value) not in (int, float):
        return JSON
    return st.sampled_from([value + 1, value - 1, -value, float(value), str(value), math.inf])


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """The document with a value or two replaced, dropped or added."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        where = random.Random(draw(st.integers(0, 2**32 - 1)))
        container, key = where.choice(slots(document))
        if draw(st.booleans()):
            container[key] = draw(JSON | near(container[key]))
        elif isinstance(container, list):
            container.insert(key, draw(JSON))
        else:
            del container[key]
        if not slots(document):
            break
    return document


def tries(action: Callable[[], object]) -> None:
    """An action that works, or is refused in one line."""
    message = "it works"
    try:
        action()
    except WeightcastError as error:
        message = str(error)
    assert message
    assert "\n" not in message


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_attributes_of_a_history_open_or_are_refused(
    fuzzed_history: Path, data: st.DataObject
) -> None:
    group = json.loads((fuzzed_history / "intact.json").read_text())
    group["attributes"] = data.draw(mutated(group["attributes"]))
    (fuzzed_history / "zarr.json").write_text(json.dumps(group))
    tries(lambda: read_everything(fuzzed_history))
    tries(lambda: HistoryWriter.open(fuzzed_history))
    tries(lambda: open_stored(fuzzed_history))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_attributes_of_a_dataset_open_or_are_refused(
    fuzzed_dataset: Path, data: st.DataObject
) -> None:
    group = json.loads((fuzzed_dataset / "intact.json").read_text())
    group["attributes"] = data.draw(mutated(group["attributes"]))
    (fuzzed_dataset / "zarr.json").write_text(json.dumps(group))

    def use() -> None:
        opened = Dataset(fuzzed_dataset)
        assert opened.X.shape == (len(opened), len(opened.recipe.context))
        assert opened.y.shape == opened.target.shape == (len(opened),)
        assert opened.inputs(opened.recipe.context) is opened.X
        opened.kinds()
        repr(opened)
        describe_dataset(opened)

    tries(use)
    tries(lambda: open_stored(fuzzed_dataset))


ARRAYS = ["X", "y", "parameter", "step", "stratum", "variation", "run", "validation"]
ARRAYS += ["target", "horizon"]


def chunk_of(dataset: Path, array: str) -> Path:
    (chunk,) = (f for f in (dataset / array / "c").rglob("*") if f.is_file())
    return chunk


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("change", [-1, 1, None])
def test_a_damaged_array_of_a_dataset_is_refused(
    dataset: Path, array: str, change: int | None
) -> None:
    chunk = chunk_of(dataset, array)
    data = chunk.read_bytes()
    chunk.unlink()
    if change:
        chunk.write_bytes(data[:-1] if change < 0 else data + b"\0")
    with refuses(FormatError, dataset, repr(array), len(data)):
        Dataset(dataset)


def with_samples(document: Any, samples: int) -> None:
    """Have a header say in each place that there are so many samples."""
    document.update(samples=samples)
    document["recipe"].update(samples=samples)
    for name in ("wanted", "samples"):
        document["origins"][0][name] = [samples, 0, 0]


DATASET_HEADERS: dict[str, tuple[Damage, str]] = {
    "newer format": (header(lambda h: h.update(dataset_format=4)), "upgrade"),
    "no format": (header(lambda h: h.pop("dataset_format")), "format"),
    "no recipe": (header(lambda h: h.pop("recipe")), "dataset build"),
    "recipe as list": (header(lambda h: h.update(recipe=[])), "recipe"),
    "more samples": (header(lambda h: h.update(samples=21)), "samples, 21"),
    "more samples, everywhere": (header(lambda h: with_samples(h, 21)), "bytes"),
    "half a sample": (header(lambda h: h.update(samples=20.0)), "20.0"),
    "half a sample asked for": (header(lambda h: h["recipe"].update(samples=20.0)), "samples"),
    "more samples asked for": (header(lambda h: h["recipe"].update(samples=21)), "recipe, 21"),
    "samples beyond numbers": (header(lambda h: with_samples(h, 10**40)), "samples"),
    "samples beyond disks": (header(lambda h: with_samples(h, 1 << 47)), "bytes"),
    "no samples": (header(lambda h: h.pop("samples")), "samples"),
    "no origins": (header(lambda h: h.pop("origins")), "origins"),
    "no history": (header(lambda h: h.update(origins=[])), "no history"),
    "origin as text": (header(lambda h: h.update(origins=["run.zarr"])), ""),
    "path as number": (header(lambda h: h["origins"][0].update(path=5)), "5 is not text"),
    "digest as number": (header(lambda h: h["origins"][0].update(digest=5)), "5 is not text"),
    "rows negative": (header(lambda h: h["origins"][0].update(recorded=-1)), "-1"),
    "draws as truth": (header(lambda h: h["origins"][0].update(draws=True)), "True"),
    "a stratum less": (header(lambda h: h["origins"][0]["ties"].pop()), "3 strata"),
    "a count as text": (header(lambda h: h["origins"][0].update(ties="000")), "'0'"),
    "wrong shares": (header(lambda h: h["recipe"].update(shares=[1.0])), "shares"),
    "dtype": (header(lambda h: h.update(dtype="float16")), "float16"),
    "no tables": (header(lambda h: h.pop("tables")), "tables"),
    "tables as number": (header(lambda h: h.update(tables=5)), "damaged"),
    "another table": (header(lambda h: h["origins"][0].update(table=1)), "index"),
    "table as text": (header(lambda h: h["origins"][0].update(table="0")), "'0'"),
    "a table with a gap": (header(lambda h: h["tables"][0][0].update(offset=3)), "contiguous"),
    "context of another kind": (header(lambda h: h["recipe"].update(context=["w"])), "'w'"),
    "an empty window": (header(lambda h: h["recipe"].update(context=["mean:0/0"])), "window"),
    "horizon behind": (header(lambda h: h["recipe"].update(horizon=["+0"])), "horizon"),
}


@pytest.mark.parametrize("case", DATASET_HEADERS)
def test_a_wrong_header_of_a_dataset_is_refused(dataset: Path, case: str) -> None:
    damage, word = DATASET_HEADERS[case]
    damage(dataset)
    with refuses(FormatError, dataset, word):
        Dataset(dataset)


@pytest.mark.parametrize("array", ["parameter", "run"])
@pytest.mark.parametrize("value", [-1, 1 << 30])
def test_samples_of_no_weight_have_no_kind(dataset: Path, array: str, value: int) -> None:
    chunk = chunk_of(dataset, array)
    dtype = "<i8" if array == "parameter" else "<i4"
    values = np.fromfile(chunk, dtype)
    values[-1 if value > 0 else 0] = value
    values.tofile(chunk)
    with refuses(FormatError, dataset, f"{array}s must be from 0"):
        Dataset(dataset).kinds()


@pytest.mark.parametrize(
    ("samples", "word"), [(7, "bytes"), (9, "bytes"), (1 << 47, "bytes"), (10**40, "samples")]
)
def test_a_wrong_header_of_format_1_is_refused(tmp_path: Path, samples: int, word: str) -> None:
    golden = Path(__file__).parent / "golden/dataset-v1.zarr"
    path = shutil.copytree(golden, tmp_path / "data.zarr")
    header(lambda h: h["recipe"].update(samples=samples))(path)
    with refuses(FormatError, path, word):
        Dataset(path)


def test_a_history_is_no_dataset_and_the_other_way_round(history: Path, dataset: Path) -> None:
    with refuses(FormatError, history, "not a weightcast dataset"):
        Dataset(history)
    with refuses(FormatError, dataset, "not a weightcast history"):
        History(dataset)
    with refuses(FormatError, dataset, "not a weightcast history"):
        build_dataset(dataset, dataset.with_name("out.zarr"), 5)
    assert isinstance(open_stored(history), History)
    assert isinstance(open_stored(dataset), Dataset)


def test_damage_is_found_while_a_dataset_is_built(tmp_path: Path) -> None:
    path = wandering(8, 30).write(tmp_path / "run.zarr", width=3)
    chunk = path / "weights/c/1/2"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with refuses(FormatError, "weights"):
        build_dataset(path, tmp_path / "data.zarr", 5, context=(1.0, 0.0))
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


def test_repr_of_a_table_stays_short(history: Path) -> None:
    assert repr(History(history).parameters) == "ParameterTable(1 parameters, 5 scalars)"
    assert vector(5) == History(history).parameters
