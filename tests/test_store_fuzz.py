"""Malformed and hostile histories: the truth, or one of our errors in one line; never a hang."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_reference import wandering
from zarr.codecs import TransposeCodec, numcodecs

from weightcast.store import (
    FormatError,
    History,
    HistoryWriter,
    ParameterTable,
    Recipe,
    WeightcastError,
    open_stored,
    plan_sampling,
)

ROWS = 6
BUFFERS = ParameterTable.of([("mean", (2,), "float32", "buffer")])


class Tree(dict[str, bytes]):
    """Every file of a history, by its path."""

    def __repr__(self) -> str:
        return "Tree()"  # hypothesis prints it


def make_history(path: Path, **options: Any) -> Path:
    """A history of 6 steps with everything that one can have, a chunk half full at its end."""
    walk = wandering(5, ROWS)
    writer = HistoryWriter.create(
        path, walk.table, buffers=BUFFERS, block=4, extras=["gradients"], **options
    )
    for low, high in ((0, 3), (3, ROWS)):
        weights = walk.weights[low:high]
        writer.append(
            walk.steps[low:high],
            walk.times[low:high],
            weights,
            np.full((high - low, 2), 0.5),
            {"gradients": -weights},
        )
    writer.log("loss", [1, 2], [0.5, 0.25])
    return path


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    path = make_history(tmp_path_factory.mktemp("intact") / "run.zarr")
    return Tree({str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()})


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "run.zarr"


def lay(tree: Tree, path: Path) -> Path:
    """The intact history, in place of whatever stands there."""
    shutil.rmtree(path, ignore_errors=True)
    for name, data in tree.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def read(path: Path) -> dict[str, Any]:
    """Everything that a history gives, by every way to read it."""
    history = History(path)
    repr(history)
    history.info()
    found: dict[str, Any] = {"steps": history.steps, "times": history.times}
    for step in history.steps:
        for name in history.wide:
            if name != "buffers":
                found[f"{name} {step}"] = history.snapshot(int(step), name)
        found.update({f"{name} {step}": v for name, v in history.state(int(step)).items()})
    for p in history.parameters:
        found[p.name] = history[p.name]
        assert found[p.name].shape == (len(history), *p.shape)
    for name in history.metrics:
        found[f"steps of {name}"], found[f"values of {name}"] = history.metric(name)
    return found


def plan(path: Path) -> None:
    recipe = Recipe(2, (1.0, 0.0), 2.0, (0.0, 1.0), (1.0,), 0, 0.01, None, None)
    plan_sampling(History(path), recipe)


def append(path: Path) -> None:
    with HistoryWriter.open(path) as writer:
        first = (writer.last_step or 0) + 1
        row = np.zeros((1, 5), np.float32)
        writer.append([first], [9.0], row, np.zeros((1, 2)), {"gradients": row})
        writer.log("loss", [first], [0.0])


ACTIONS: list[Callable[[Path], Any]] = [read, open_stored, plan, append, read]


@contextmanager
def watched() -> Iterator[None]:
    """An error, and not a suite that hangs, if something waits for ever."""

    def stop(*_: object) -> None:
        raise AssertionError("it hangs")

    kept = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, kept)


def refused(action: Callable[[Path], object], path: Path) -> Any:
    """What an action gives, or None if it was refused in one line."""
    try:
        with watched():
            return action(path)
    except WeightcastError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


def check_all(path: Path, truth: dict[str, Any] | None = None) -> None:
    """Every action works or is refused; with `truth`, what is read begins with that."""
    for action in ACTIONS:
        found = refused(action, path)
        if action is read and truth is not None and found is not None:
            for name, values in truth.items():
                assert found[name][: len(values)].tobytes() == values.tobytes(), name


FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes | None:
    """A file with flipped bits, cut short, longer, of other bytes, or gone."""
    if not data:
        return draw(st.binary(max_size=20))
    kind = draw(st.sampled_from(["flip", "flip", "cut", "longer", "other", "gone"]))
    at = draw(st.integers(0, len(data) - 1))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "longer":
        return data + draw(st.binary(min_size=1, max_size=40))
    return draw(st.binary(max_size=40)) if kind == "other" else None


@settings(FUZZ, max_examples=25)
@given(data=st.data())
def test_damaged_chunks_are_never_silently_wrong(
    intact: Tree, ground: Path, data: st.DataObject
) -> None:
    path = lay(intact, ground)
    truth = read(path)
    name = data.draw(st.sampled_from([n for n in intact if not n.endswith("zarr.json")]))
    change(path / name, data.draw(damaged_bytes(intact[name])))
    check_all(path, truth)
    assert refused(read, path) is None  # every byte of a chunk is checked


def change(file: Path, data: bytes | None) -> None:
    file.unlink() if data is None else file.write_bytes(data)


@settings(FUZZ, max_examples=25)
@given(data=st.data())
def test_damaged_metadata_is_read_or_refused(
    intact: Tree, ground: Path, data: st.DataObject
) -> None:
    path = lay(intact, ground)
    name = data.draw(st.sampled_from([n for n in intact if n.endswith("zarr.json")]))
    change(path / name, data.draw(damaged_bytes(intact[name])))
    check_all(path)


HUGE = [2**31, 2**31 - 1, 2**32, 2**63 - 1, 2**63, 2**64, 10**15, 10**18, 10**30, 10**400]
NUMBERS = [0, -1, 1, 2, 3, 7, True, 1.5, float("nan"), float("inf"), *HUGE]
NAMES = [
    "",
    "w",
    "mean",
    "loss",
    "../../etc",
    "/etc/passwd",
    "a/b",
    "c",
    "zarr.json",
    "é\u202e\0\n",
]
DTYPES = ["float16", "float32", "float64", "int64", "uint8", "bool", "complex64", "string"]
DTYPES += ["bytes", "r16", "datetime64", "object", "variable_length_utf8", "fixed_length_utf32"]
ODD = st.sampled_from([None, "", [], {}, *NUMBERS, *NAMES, *DTYPES]).map(copy.deepcopy)
ODD |= st.lists(st.sampled_from([*NUMBERS, "w", None, []]), max_size=4).map(copy.deepcopy)
ODD |= st.integers(900, 30_000).map(lambda depth: ("deep", depth))

BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
BLOSC = {
    "name": "blosc",
    "configuration": {
        "typesize": 4,
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "bitshuffle",
        "blocksize": 0,
    },
}
CODECS: list[Any] = [
    [{"name": name, "configuration": {}}]
    for name in ("vlen-utf8", "vlen-bytes", "numcodecs.pickle", "numcodecs.json2", "nothing", "")
]
CODECS += [
    [BYTES, {"name": name, "configuration": settings}]
    for name, settings in (
        ("numcodecs.pickle", {}),
        ("numcodecs.zlib", {"level": 1}),
        ("numcodecs.lzma", {}),
        ("numcodecs.delta", {"dtype": "<f4"}),
        ("numcodecs.bz2", {}),
        ("gzip", {"level": 1}),
        ("zstd", {"level": 0, "checksum": True}),
        ("zstd", {"level": 10**20}),
        ("crc32c", {}),
        ("gzip", {"level": "x"}),
        ("blosc", {"cname": "x"}),
        ("weightcast.nothing", {}),
    )
]
CODECS += [
    [],
    None,
    "bytes",
    [None],
    [{}],
    [BYTES],
    [BYTES, BYTES],
    [{"name": "bytes"}],
    [BLOSC],
    ["bytes"],
    [5],
    [{"name": 5}],
    [{"name": "bytes", "configuration": {"endian": "big"}}],
    [{"name": "transpose", "configuration": {"order": [1, 0]}}, BYTES],
    [{"name": "numcodecs.pcodec", "configuration": {}}],
    [{"name": "weightcast.bounded", "configuration": {"error": 1e-3}}],
    [{"name": "weightcast.bounded", "configuration": {}}],
    [{"name": "cast_value", "configuration": {}}, BYTES],
]


def sharding(chunks: Any, codecs: Any = (BYTES,)) -> list[Any]:
    index = [BYTES, {"name": "crc32c"}]
    settings = {"chunk_shape": chunks, "codecs": list(codecs), "index_codecs": index}
    return [{"name": "sharding_indexed", "configuration": settings}]


CODECS += [sharding(c) for c in ([5, 4], [1, 1], [0, 0], [2, 3], [4], 5, [10**18, 1], [5, 10**30])]
CODECS += [sharding([5, 4], codecs) for codecs in ([], [{"name": "numcodecs.pickle"}], [5])]
CODECS += [sharding([5, 2], sharding([5, 1]))]
GRIDS = [
    [0, 0],
    [5, 0],
    [-5, 4],
    [5],
    [],
    [5, 4, 1],
    [1, 1],
    [10**18, 4],
    [5, 10**18],
    [2**62, 2**62],
]
GRIDS += [[5, 10**30], [2.5, 4], ["5", 4], None, 4, [1, 10**9], [10**6, 10**6]]


def grid(chunks: Any) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": chunks}}


FIELDS: dict[str, list[Any]] = {
    "codecs": CODECS,
    "chunk_grid": [*map(grid, GRIDS), {"name": "rectilinear"}, {"name": "regular"}, {}, 5],
    "shape": [
        *([n, ROWS] for n in NUMBERS),
        *([5, n] for n in NUMBERS),
        *([n] for n in NUMBERS),
        [],
        None,
        [10**18, 10**18],
        [5, ROWS, 1],
        [5, 5],
    ],
    "data_type": [*DTYPES, {"name": "numpy.datetime64", "configuration": {"unit": "s"}}, 5, None],
    "fill_value": [None, "NaN", "0x7fc00000", "0xzz", 0, [], "Infinity", 10**400, {"a": 1}],
    "chunk_key_encoding": [
        {"name": "v2", "configuration": {"separator": "/"}},
        {"name": "v2"},
        {"name": "default"},
        {"name": "default", "configuration": {"separator": "."}},
        {},
        5,
        {"name": "nothing"},
        {"name": "default", "configuration": {"separator": "/../"}},
    ],
    "storage_transformers": [[{"name": "x"}], 5, [{}], ["pickle"]],
    "dimension_names": [[], ["a"], [None, None], 5, ["\0", "../"], ["a", "a"]],
    "node_type": ["group", "array", "", None, 5],
    "zarr_format": [2, 4, "3", None, 3.0, -1],
    "attributes": [None, 5, [], {"_ARRAY_DIMENSIONS": 5}],
    "consolidated_metadata": [{}, 5, {"kind": "inline", "must_understand": False, "metadata": {}}],
    "unknown": [5, {"must_understand": True}, {"must_understand": False}],
}


def slots(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    if not isinstance(node, dict | list):
        return []
    keys = list(node) if isinstance(node, dict) else range(len(node))
    return [pair for key in keys for pair in ((node, key), *slots(node[key]))]


def dumps(document: Any) -> str:
    """JSON, with ("deep", n) as a list in a list in a list."""

    def expand(node: Any) -> Any:
        if isinstance(node, tuple):
            return f"<deep {node[1]}>"
        if isinstance(node, dict):
            return {key: expand(value) for key, value in node.items()}
        return [expand(value) for value in node] if isinstance(node, list) else node

    text = json.dumps(expand(document))
    while "<deep " in text:
        head, _, rest = text.partition('"<deep ')
        depth, _, tail = rest.partition('>"')
        text = head + "[" * int(depth) + "]" * int(depth) + tail
    return text


@settings(FUZZ, max_examples=60)
@given(data=st.data())
def test_hostile_metadata_is_read_or_refused(
    intact: Tree, ground: Path, data: st.DataObject
) -> None:
    path = lay(intact, ground)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from([n for n in intact if n.endswith("zarr.json")]))
        document = json.loads(intact[name])
        if data.draw(st.booleans()):
            field = data.draw(st.sampled_from(list(FIELDS)))
            document[field] = data.draw(st.sampled_from(FIELDS[field]))
        else:
            container, key = data.draw(st.sampled_from(slots(document)))
            if data.draw(st.integers(0, 4)):
                container[key] = data.draw(ODD)
            elif isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
            else:
                del container[key]
        (path / name).write_text(dumps(document))
    check_all(path)


HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "committed": lambda h: h.update(committed=10**15),
    "committed beyond numbers": lambda h: h.update(committed=10**30),
    "metric": lambda h: h["metrics"].update(loss=10**15),
    "table": lambda h: h["parameters"][0].update(shape=[10**15]),
    "table beyond numbers": lambda h: h["parameters"][0].update(shape=[10**30]),
    "axes": lambda h: h["parameters"][0].update(shape=[5] + [1] * 70),
    "axes beside one of none": lambda h: h["parameters"].append(
        {**h["parameters"][0], "name": "v", "offset": 5, "shape": [0, 10**30]}
    ),
    "error beyond numbers": lambda h: h.update(error=10**400),
}


def huge(tree: Tree, path: Path, case: str) -> Path:
    """A history that says it is huge, in its header and in its arrays alike."""
    document = json.loads(lay(tree, path).joinpath("zarr.json").read_text())
    header = document["attributes"]["weightcast"]
    HEADERS[case](header)
    (path / "zarr.json").write_text(json.dumps(document))
    rows = int(np.prod(header["parameters"][0]["shape"], dtype=object))
    shapes = {name: [rows, header["committed"]] for name in ("weights", "gradients")}
    shapes |= {"buffers": [2, header["committed"]]}
    shapes |= {name: [header["committed"]] for name in ("step", "time")}
    shapes |= {f"metrics/loss/{p}": [header["metrics"]["loss"]] for p in ("step", "value")}
    for name, shape in shapes.items():
        array = json.loads((path / name / "zarr.json").read_text())
        array["shape"] = shape
        (path / name / "zarr.json").write_text(json.dumps(array))
    return path


@pytest.mark.parametrize("case", HEADERS)
def test_a_history_that_says_it_is_huge_is_refused_before_memory_is_asked_for(
    intact: Tree, ground: Path, case: str
) -> None:
    path = huge(intact, ground, case)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError), watched():
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["weights", "step", "metrics/loss/value"])
@pytest.mark.parametrize("at", range(len(CODECS)))
def test_other_codecs_are_refused(intact: Tree, ground: Path, name: str, at: int) -> None:
    path = lay(intact, ground)
    document = json.loads(intact[f"{name}/zarr.json"])
    document["codecs"] = CODECS[at]
    (path / name / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(FormatError) as caught, watched():
        read(path)
    assert "\n" not in str(caught.value)


SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "rows past the committed": ("committed", {"shape": [5, 2**31]}),
    "chunk of 40 GB": ("chunks", {"chunk_grid": grid([5, 2**31])}),
    "shard of 40 million chunks": (
        "chunks",
        {"chunk_grid": grid([5, 2**23]), "codecs": sharding([1, 1])},
    ),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_that_no_history_has_are_refused(intact: Tree, ground: Path, case: str) -> None:
    path = lay(intact, ground)
    word, fields = SIZES[case]
    document = json.loads(intact["weights/zarr.json"])
    (path / "weights/zarr.json").write_text(json.dumps(document | fields))
    with pytest.raises(FormatError, match=f"weights is damaged.*{word}"):
        History(path)


def test_rows_that_a_killed_writer_left_are_not_there(intact: Tree, ground: Path) -> None:
    path = lay(intact, ground)
    truth = read(path)
    for name in ("weights", "gradients", "buffers", "step", "time"):
        document = json.loads(intact[f"{name}/zarr.json"])
        document["shape"][-1] += 1000
        (path / name / "zarr.json").write_text(json.dumps(document))
    check_all(path, truth)
    assert refused(read, path) is not None


@pytest.mark.parametrize("name", ["weights", "time"])
@pytest.mark.parametrize(
    "codecs",
    [
        {"compressors": [numcodecs.Zlib()]},
        {"compressors": [numcodecs.LZ4()]},
        {"filters": [TransposeCodec(order=(0, 1))]},
        {"shards": True, "compressors": [numcodecs.Zlib()]},
    ],
    ids=lambda c: "-".join(c),
)
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_values_that_only_a_foreign_codec_decodes_are_refused(
    intact: Tree, ground: Path, name: str, codecs: dict[str, Any]
) -> None:
    path = lay(intact, ground)
    group = zarr.open_group(path, mode="r+")
    values = np.asarray(group[name][...])
    options = {**codecs}
    if "TransposeCodec" in str(codecs) and values.ndim == 1:
        options["filters"] = [TransposeCodec(order=(0,))]
    if options.pop("shards", False):
        options["shards"] = values.shape
    del group[name]
    group.create_array(name, data=values, chunks=values.shape, **options)
    assert np.array_equal(zarr.open_group(path, mode="r")[name][...], values)
    with pytest.raises(FormatError, match="codec"):
        read(path)


def swap(one: str, other: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        (path / one).rename(path / "kept")
        (path / other).rename(path / one)
        (path / "kept").rename(path / other)

    return change


def in_place_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        place = path / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        make(place)

    return change


def sparse(size: int) -> Callable[[Path], object]:
    def make(place: Path) -> None:
        with place.open("wb") as file:
            file.truncate(size)

    return make


FILES = ["weights/zarr.json", "weights/c/0/1", "step/c/0", "step/zarr.json", "time/c/0"]
MAKERS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda place: place.symlink_to("/dev/zero"),
    "loop": lambda place: place.symlink_to(place.name),
    "dangling": lambda place: place.symlink_to("nowhere"),
    "a terabyte": sparse(1 << 40),
}
PLACES = {f"{n} is a {kind}": in_place_of(n, make) for kind, make in MAKERS.items() for n in FILES}
PLACES |= {
    "arrays swapped": swap("weights", "buffers"),
    "gradients are a metric": swap("gradients", "metrics"),
    "an array is a file": in_place_of("weights", Path.touch),
    "an array is a group": in_place_of("weights", lambda p: zarr.create_group(p)),
    "the group is a pipe": in_place_of("zarr.json", os.mkfifo),
    "the group is an array": in_place_of(
        "zarr.json", lambda p: p.write_bytes((p.parent / "step/zarr.json").read_bytes())
    ),
    "the group is a terabyte": in_place_of("zarr.json", sparse(1 << 40)),
    "all chunks are a file": in_place_of("weights/c", Path.touch),
}


@pytest.mark.parametrize("case", PLACES)
def test_what_stands_in_place_of_a_file_is_refused(intact: Tree, ground: Path, case: str) -> None:
    path = lay(intact, ground)
    PLACES[case](path)
    with pytest.raises(FormatError) as caught, watched():
        read(path)
    assert "\n" not in str(caught.value)
    for action in ACTIONS:
        refused(action, path)


def test_links_to_real_files_are_followed(intact: Tree, ground: Path) -> None:
    path = lay(intact, ground)
    truth = read(path)
    elsewhere = path.with_name("elsewhere")
    shutil.rmtree(elsewhere, ignore_errors=True)
    (path / "weights").rename(elsewhere)
    (path / "weights").symlink_to(elsewhere)
    assert refused(read, path).keys() == truth.keys()
    check_all(path, truth)


def test_swapped_chunks_of_two_arrays_are_noticed_where_that_can_be(
    intact: Tree, ground: Path
) -> None:
    path = lay(intact, ground)
    swap("step/c/0", "weights/c/0/0")(path)
    with pytest.raises(FormatError):
        read(path)
