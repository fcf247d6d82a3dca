"""What the codec presets keep: everything, or every weight within the stated error."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numcodecs.blosc import Blosc
from store_reference import same_bits
from zarr.storage import MemoryStore

from weightcast.store import (
    FormatError,
    History,
    HistoryWriter,
    ParameterTable,
    ShapeError,
    UsageError,
)
from weightcast.store.codecs import check_preset, wide_codecs
from weightcast.store.prediction import left_over
from weightcast.store.rounded import decode, encode
from weightcast.store.transpose import parameter_major

KINDS = st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])
PRESETS = [("fast", None), ("compact", None), ("bounded", 1e-3)]


def stored(
    values: np.ndarray, chunks: tuple[int, int], preset: str, error: float | None
) -> zarr.Array:
    """An array of a preset, in memory."""
    group = zarr.create_group(MemoryStore())
    array = group.create_array(
        "weights",
        shape=values.shape,
        chunks=chunks,
        dtype=values.dtype,
        fill_value=float("nan"),
        config={"write_empty_chunks": True},  # as our writer has it: else NaN is not written
        **wide_codecs(preset, error, values.dtype),
    )
    array[...] = values
    return array


@st.composite
def anything(draw: st.DrawFn) -> np.ndarray:
    """Any bits at all: NaN with a payload, infinities, -0.0, numbers too small to be normal."""
    dtype = draw(KINDS)
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    bits = draw(hnp.arrays(f"u{dtype.itemsize}", shape))
    return bits.view(dtype)


@st.composite
def walks(draw: st.DrawFn) -> np.ndarray:
    """Trajectories [p, n] that start anywhere and move by steps of all sizes."""
    dtype = draw(KINDS)
    p, n = draw(st.integers(1, 20)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = 10.0 ** random.uniform(-9, 3, (p, 1))
    values = random.normal(size=(p, 1)) * 10.0 ** random.uniform(-3, 3, (p, 1))
    moves = random.normal(size=(p, n)) * scale + random.normal(size=(p, 1)) * scale
    return (values + np.cumsum(moves, axis=1)).astype(dtype)


def nearest(values: np.ndarray, error: float) -> np.ndarray:
    """The multiple of 63/32 of the bound that is nearest to each number, one at a time."""
    step = error * 63 / 32
    flat = [round(float(value) * (1 / step)) * step for value in values.reshape(-1)]
    return np.array(flat).astype(values.dtype).reshape(values.shape)


def furthest(decoded: np.ndarray, values: np.ndarray) -> float:
    return float(np.abs(decoded.astype(np.float64) - values.astype(np.float64)).max(initial=0))


bounds = st.floats(-9, 2).map(lambda power: 10.0**power)
sides = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("preset", ["fast", "compact"])
@given(values=anything(), chunks=sides)
def test_the_lossless_presets_keep_every_bit(
    preset: str, values: np.ndarray, chunks: tuple[int, int]
) -> None:
    assert same_bits(stored(values, chunks, preset, None)[...], values)


@given(values=walks(), error=bounds, chunks=sides)
def test_bounded_keeps_every_number_within_the_error(
    values: np.ndarray, error: float, chunks: tuple[int, int]
) -> None:
    decoded = stored(values, chunks, "bounded", error)[...]
    assert furthest(decoded, values) <= error
    assert np.all((decoded == values) | (decoded == nearest(values, error)))


@given(values=walks(), error=bounds, chunks=st.lists(sides, min_size=2, max_size=4))
def test_numbers_rounded_once_stay_when_they_are_copied_and_chunked_anew(
    values: np.ndarray, error: float, chunks: list[tuple[int, int]]
) -> None:
    """Else each copy would add an error of its own."""
    first = stored(values, values.shape, "bounded", error)[...]
    again = first
    for each in chunks:
        again = stored(again, each, "bounded", error)[...]
        assert furthest(again, values) <= error
    if encode(values, error)[0]:  # whole, in one chunk, it was rounded
        assert same_bits(again, first)


@given(values=anything(), error=bounds)
def test_bounded_keeps_every_bit_of_what_is_not_finite(values: np.ndarray, error: float) -> None:
    values[0, 0] = np.inf
    assert same_bits(stored(values, values.shape, "bounded", error)[...], values)


@pytest.mark.parametrize("extreme", [1e-45, 3.4e38])
@pytest.mark.parametrize("error", [1e-300, 1e-40, 1.0, 3.3e38, 3.41e38, 1e300])
def test_bounded_at_the_ends_of_float32(extreme: float, error: float) -> None:
    values = np.array([[0.0, extreme], [-extreme, 1.0]], dtype=np.float32)
    decoded = stored(values, (2, 2), "bounded", error)[...]
    assert np.isfinite(decoded).all()
    assert furthest(decoded, values) <= error


@pytest.mark.parametrize("change", [127, -128, 128, -129, 2**15 - 1, -(2**15), 2**15, -(2**15) - 1])
def test_changes_at_the_edges_of_one_and_two_bytes_are_rounded_too(change: int) -> None:
    values = np.array([[0.1, change + 0.1], [0.1, 0.1]]) * 63 / 32  # neither is exact when rounded
    assert same_bits(decode(encode(values, 1.0), (2, 2), np.float64, 1.0), nearest(values, 1.0))


def test_a_mistake_in_the_prediction_is_noticed_before_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(4, 100)
    right = encode(values, 1e-3)

    def mistaken(q: np.ndarray) -> tuple[int, np.ndarray]:
        tap, left = left_over(q)
        left[0, -3] += 1  # and with it all that follows
        return tap, left

    monkeypatch.setattr("weightcast.store.rounded.left_over", mistaken)
    wrong = encode(values, 1e-3)
    assert wrong != right
    assert furthest(decode(wrong, (4, 100), np.float32, 1e-3), values) <= 1e-3


def test_padding_rows_do_not_keep_a_chunk_from_being_rounded() -> None:
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4)
    decoded = stored(values, (5, 4), "bounded", 0.01)[...]
    assert same_bits(decoded, nearest(values, 0.01))


@pytest.mark.parametrize(
    "last", [[np.nan, 1.0, 2.0], [np.nan, np.nan, 2.0], [-np.nan] * 3, [0.1, np.nan, 0.2]]
)
def test_what_only_looks_like_padding_is_kept(last: list[float]) -> None:
    values = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], last])
    assert same_bits(stored(values, (3, 3), "bounded", 0.01)[...], values)


def test_a_chunk_that_still_fills_up_is_exact_and_is_rounded_once_when_it_is_full() -> None:
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(3, 8)
    array = stored(np.full((3, 8), np.nan, np.float32), (3, 4), "bounded", 0.01)
    for column in range(8):
        array[:, column] = values[:, column]
        full = (column + 1) // 4 * 4
        assert same_bits(array[:, :full], nearest(values, 0.01)[:, :full])
        assert same_bits(array[:, full : column + 1], values[:, full : column + 1])


@given(st.data())
def test_a_damaged_chunk_is_an_error_or_an_array_of_its_shape(data: st.DataObject) -> None:
    """Without its checksum; an error of a kind that reading turns into a FormatError."""
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    values = random.normal(size=(7, 5)).cumsum(axis=1).astype(np.float32)
    values[6, 4] = data.draw(st.sampled_from([1.0, 2e4, np.inf]))
    payload = bytearray(encode(values, 1e-3))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = (
        payload[: data.draw(st.integers(0, len(payload)))] if data.draw(st.booleans()) else payload
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            decoded = decode(bytes(payload), (7, 5), np.float32, 1e-3)
        except (ValueError, RuntimeError):
            return
    assert decoded.shape == (7, 5)
    assert decoded.dtype == np.float32


def test_every_cut_of_a_chunk_is_an_error() -> None:
    values = np.linspace(0, 1, 20).reshape(4, 5)
    for whole in (encode(values, 0.01), encode(np.full((4, 5), np.inf), 0.01)):
        for length in range(len(whole)):
            with pytest.raises((ValueError, RuntimeError)):
                decode(whole[:length], (4, 5), np.float64, 0.01)
        with pytest.raises(ValueError, match="bytes should have"):
            decode(whole + b"\0", (4, 5), np.float64, 0.01)


def by_hand(**changes: object) -> bytes:
    """A rounded chunk [3, 3] of two rows, bound 1, as `weightcast.store.rounded` describes it.

    First column 5 + (0, 2); changes 1 and 0, then 1 and -2 more than half of these, rounded up.
    """
    fields: dict[str, object] = {"mode": 1, "size": 1, "tap": 32, "rows": 2, "exact": 1, "base": 5}
    fields |= {"first": [0, 2], "left": [129, 129, 128, 126], "places": [4], "values": [0.5]}
    fields |= changes
    f = fields
    start = struct.pack("<B7xd", f["mode"], 1.0)
    start += struct.pack("<BxhIIi", *(f[k] for k in ("size", "tap", "rows", "exact", "base")))
    for name, dtype in [("first", "u4"), ("left", "u1"), ("places", "u4"), ("values", "f4")]:
        packed = Blosc("zstd").encode(np.array(f[name], dtype)) if f[name] else b""
        start += struct.pack("<I", len(packed)) + packed
    return start


def test_a_chunk_by_hand() -> None:
    expected = np.array([[5, 6, 8], [7, 7, 5], [np.nan] * 3]) * 63 / 32
    expected[1, 1] = 0.5
    assert same_bits(decode(by_hand(), (3, 3), np.float32, 1.0), expected.astype(np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"mode": 2},
        {"size": 0},
        {"size": 3},
        {"size": 2},
        {"rows": 1},
        {"rows": 4},
        {"rows": 2**32 - 1},
        {"rows": 4, "first": [0, 1, 2, 3], "left": [128] * 8},
        {"exact": 0},
        {"exact": 2**32 - 1},
        {"exact": 7, "places": [0] * 7, "values": [1.0] * 7},
        {"first": []},
        {"first": [0]},
        {"left": [128] * 3},
        {"left": [128] * 2**20},
        {"places": [6]},
        {"places": [2**32 - 1]},
        {"values": [0.5, 0.5]},
    ],
)
def test_a_chunk_that_does_not_add_up(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        decode(by_hand(**change), (3, 3), np.float32, 1.0)


def test_a_chunk_tells_the_bound_it_was_made_with() -> None:
    with pytest.raises(ValueError, match=r"error bound 0\.01, its array has 0\.02"):
        decode(encode(np.zeros((2, 2)), 0.01), (2, 2), np.float64, 0.02)


@given(st.data())
def test_parameter_major_is_the_transpose(data: st.DataObject) -> None:
    p, n, apart = (data.draw(st.integers(0, 30)) for _ in range(3))
    ring = np.random.default_rng(0).normal(size=(n, p + apart)).astype(data.draw(KINDS))
    chunk = np.full((p + 1, n + 1), np.nan, ring.dtype)
    parameter_major(ring[:, :p], chunk[:p, :n])
    assert same_bits(chunk[:p, :n], ring[:, :p].T)
    assert np.isnan(chunk[p]).all()
    assert np.isnan(chunk[:, n]).all()


def test_parameter_major_refuses_another_shape() -> None:
    with pytest.raises(ShapeError, match=r"out must have shape \(3, 2\): got \(2, 3\)"):
        parameter_major(np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("preset", "error", "message"),
    [
        ("gzip", None, "preset must be one of fast, compact, bounded: got 'gzip'"),
        (["fast"], None, "preset must be one of"),
        ("fast", 1e-6, "only the preset bounded takes an error bound, fast is lossless"),
        ("compact", 0.0, "only the preset bounded"),
        ("bounded", None, "weightcast compact --preset bounded"),
        ("bounded", 0.0, "must be a positive number"),
        ("bounded", -1e-6, "must be a positive number"),
        ("bounded", float("nan"), "must be a positive number"),
        ("bounded", float("inf"), "must be a positive number"),
        ("bounded", 1e-301, "from 1e-300 to 1e300: got 1e-301"),
        ("bounded", True, "must be a positive number"),
        ("bounded", "1e-6", "must be a positive number"),
    ],
)
def test_preset_and_error_that_do_not_go_together(
    preset: object, error: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        check_preset(preset, error)
    assert message in str(caught.value)
    table = ParameterTable.of([("w", (2,), "float32", "weight")])
    with pytest.raises(UsageError):
        HistoryWriter.create(tmp_path / "run.zarr", table, preset=preset, error=error)  # type: ignore[arg-type]
    assert not (tmp_path / "run.zarr").exists()


TABLE = ParameterTable.of([("w", (50,), "float32", "weight")])
BUFFERS = ParameterTable.of([("b", (2,), "float32", "buffer")])


def recorded(path: Path, preset: str, error: float | None) -> dict[str, np.ndarray]:
    """A small history of a preset; returns what was appended, [steps, values]."""
    random = np.random.default_rng(3)
    weights = random.normal(size=(10, 50)).cumsum(axis=0).astype(np.float32)
    gradients = random.normal(size=(10, 50)).astype(np.float32) * np.float32(1e-6)
    buffers = random.normal(size=(10, 2))
    with HistoryWriter.create(
        path,
        TABLE,
        buffers=BUFFERS,
        block=4,
        preset=preset,
        error=error,
        extras=["gradients"],
    ) as writer:
        writer.append(range(10), [0.1] * 10, weights, buffers, {"gradients": gradients})
    return {"weights": weights, "buffers": buffers, "gradients": gradients}


@pytest.mark.parametrize(("preset", "error"), PRESETS)
def test_a_history_of_each_preset(preset: str, error: float | None, tmp_path: Path) -> None:
    rows = recorded(tmp_path / "run.zarr", preset, error)
    history = History(tmp_path / "run.zarr")
    assert (history.info().preset, history.info().error) == (preset, error)
    read = {name: array[...].T for name, array in history.wide.items()}
    assert same_bits(read["buffers"], rows["buffers"])
    assert same_bits(read["gradients"], rows["gradients"])
    if error is None:
        assert same_bits(read["weights"], rows["weights"])
    else:
        assert 0 < furthest(read["weights"], rows["weights"]) <= error


@pytest.mark.parametrize(("preset", "error"), PRESETS)
def test_a_flipped_bit_in_any_chunk_is_damage(
    preset: str, error: float | None, tmp_path: Path
) -> None:
    recorded(tmp_path / "run.zarr", preset, error)
    history = History(tmp_path / "run.zarr")
    for name in history.wide:
        chunks = [f for f in (tmp_path / "run.zarr" / name / "c").rglob("*") if f.is_file()]
        assert len(chunks) == 3
        for number, chunk in enumerate(sorted(chunks)):
            good = chunk.read_bytes()
            for place in (0, len(good) // 2, len(good) - 1):
                chunk.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
                with pytest.raises(FormatError, match="does not decode"):
                    history.snapshot(4 * number, name)
            chunk.write_bytes(good)


MISSING = "a bound that is not there"


@pytest.mark.parametrize("bound", ["1e-6", -1.0, True, [], MISSING])
def test_a_damaged_error_bound(bound: object, tmp_path: Path) -> None:
    """In the array's zarr.json, and in the header."""
    recorded(tmp_path / "run.zarr", "bounded", 1e-3)
    file = tmp_path / "run.zarr" / "weights" / "zarr.json"
    good = file.read_text()
    document = json.loads(good)
    document["codecs"][0]["configuration"] = {"error": bound} if bound != MISSING else {}
    file.write_text(json.dumps(document))
    with pytest.raises(FormatError, match="damaged"):
        History(tmp_path / "run.zarr")
    file.write_text(good)
    file = tmp_path / "run.zarr" / "zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["weightcast"]["error"] = bound
    file.write_text(json.dumps(document))
    with pytest.raises(FormatError, match="its error bound is"):
        History(tmp_path / "run.zarr")


def walk(p: int, n: int) -> np.ndarray:
    """Weights as an optimizer with momentum moves them, roughly."""
    random = np.random.default_rng(5)
    speed = random.normal(size=(p, n)).astype(np.float32)
    for t in range(1, n):
        speed[:, t] = 0.9 * speed[:, t - 1] + 0.1 * speed[:, t]
    return random.normal(size=(p, 1)).astype(np.float32) * np.float32(0.05) + np.cumsum(
        speed * np.float32(1e-4), axis=1, dtype=np.float32
    )


def size_of(values: np.ndarray, preset: str, error: float | None) -> int:
    return stored(values, (2048, 64), preset, error).nbytes_stored()


def test_each_preset_is_smaller_than_the_one_before() -> None:
    values = walk(2048, 64)
    fast, compact, bounded = (
        size_of(values, preset, error)
        for preset, error in [("fast", None), ("compact", None), ("bounded", 1e-6)]
    )
    assert bounded < 0.4 * compact
    assert compact < 0.85 * fast
    assert fast < 0.8 * values.nbytes


@pytest.mark.parametrize(("preset", "error"), PRESETS)
@pytest.mark.parametrize("filled", [32, 48])
def test_a_chunk_filled_in_part_is_smaller_than_its_numbers(
    preset: str, error: float | None, filled: int
) -> None:
    values = walk(2048, 64)
    values[:, filled:] = np.nan
    assert size_of(values, preset, error) < 4 * 2048 * filled


PLAIN = """
import sys, zarr
group = zarr.open_group(sys.argv[1], mode="r")
sys.stdout.buffer.write(group["weights"][...].tobytes())
"""
OURS = """
import sys
from weightcast.store import History
sys.stdout.buffer.write(History(sys.argv[1]).weights[...].tobytes())
"""


@pytest.mark.parametrize(("preset", "error"), PRESETS[1:])
def test_zarr_alone_reads_it_and_we_read_it_without_a_warning(
    preset: str, error: float | None, tmp_path: Path
) -> None:
    path = tmp_path / "run.zarr"
    recorded(path, preset, error)
    expected = History(path).weights[...].tobytes()
    for options in (["-c", PLAIN], ["-W", "error", "-c", OURS]):
        call = subprocess.run(  # in a process that has not imported our codec
            [sys.executable, *options, str(path)], capture_output=True, cwd=tmp_path, check=True
        )
        assert call.stdout == expected


def test_bounded_is_for_trajectories_of_floats() -> None:
    group = zarr.create_group(MemoryStore())
    for shape, dtype in [((4,), np.float32), ((4, 4), np.int32)]:
        with pytest.raises(ValueError, match="needs two axes of float32 or float64"):
            group.create_array(
                "x", shape=shape, dtype=dtype, **wide_codecs("bounded", 1e-3, np.float32)
            )
