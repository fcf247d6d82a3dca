"""A ChunkReader gives what Zarr gives, to the bit, or says which chunk is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.blosc import Blosc
from pcodec import ChunkConfig, standalone
from store_reference import Recorded, histories, refuses, same_bits, wandering
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.codecs.numcodecs import PCodec
from zarr.storage import LocalStore

from weightcast.store import FormatError, History, compact, plan_compaction
from weightcast.store.decoding import ChunkReader
from weightcast.store.reading import open_group, read
from weightcast.store.rechunking import Options
from weightcast.store.rounded import encode

PRESETS: list[tuple[str, float | None]] = [("fast", None), ("compact", None), ("bounded", 1e-3)]
Range = tuple[int, int, int, int]
each_preset = pytest.mark.parametrize(("preset", "error"), PRESETS)


def slow(array: Any, part: Range) -> np.ndarray:
    low, high, start, stop = part
    return read(array, (slice(low, high), slice(start, stop)))


def chunks(array: Any) -> list[Range]:
    """Every chunk, those at the edges cut."""
    (P, T), (height, width) = array.shape, array.chunks
    return [
        (low, min(low + height, P), start, min(start + width, T))
        for low, start in product(range(0, P, height), range(0, T, width))
    ]


@pytest.fixture
def without_zarr(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, Zarr reads no more."""

    def fails(*_: Any) -> None:
        raise AssertionError("zarr was asked")

    return lambda: monkeypatch.setattr(zarr.Array, "__getitem__", fails)


@settings(deadline=None, max_examples=60)
@given(
    recorded=histories() | st.builds(wandering, st.integers(1, 9), st.integers(0, 9)),
    preset=st.sampled_from(PRESETS),
    block=st.integers(1, 6),
    width=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 5), max_size=2),
    shard=st.sampled_from([None, None, 48]),
    data=st.data(),
)
def test_the_same_bits_as_zarr_reads(
    recorded: Recorded,
    preset: tuple[str, float | None],
    block: int,
    width: int,
    sizes: list[int],
    shard: int | None,
    data: st.DataObject,
) -> None:
    settings = {"preset": preset[0], "error": preset[1]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.zarr"
        recorded.write(path, block=block, width=width, sizes=sizes, **settings)
        history = History(path)
        if shard:
            options = Options(steps_per_chunk=block, parameters_per_chunk=width, shard=shard)
            path = path.with_name("shards.zarr")
            compact(history, path, plan_compaction(history, options=options, **settings))
            history = History(path)
        for array in history.wide.values():
            reader, (P, T) = ChunkReader(array), array.shape
            for part in chunks(array):
                assert same_bits(reader.read(*part), slow(array, part))
            for _ in range(3):  # and ranges that lie anyhow
                low, high = sorted(data.draw(st.tuples(*[st.integers(0, P)] * 2)))
                start, stop = sorted(data.draw(st.tuples(*[st.integers(0, T)] * 2)))
                part = (low, high, start, stop)
                assert same_bits(reader.read(*part), slow(array, part))


def make(path: Path, preset: str, error: float | None, dtype: Any = np.float32) -> Path:
    """7 weights x 10 steps, in chunks of 4 x 6; the last of either axis is cut."""
    recorded = wandering(7, 10, dtype=dtype)
    return recorded.write(path, block=6, width=4, preset=preset, error=error)


@each_preset
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chunks_are_read_without_zarr(
    preset: str,
    error: float | None,
    dtype: Any,
    tmp_path: Path,
    without_zarr: Callable[[], None],
) -> None:
    array = History(make(tmp_path / "run.zarr", preset, error, dtype)).weights
    parts = [*chunks(array), (1, 3, 2, 5), (4, 5, 7, 10)]  # the last two lie within a chunk
    expected = [slow(array, part) for part in parts]
    without_zarr()
    reader = ChunkReader(array)
    for part, values in zip(parts, expected, strict=True):
        assert same_bits(reader.read(*part), values)


@pytest.mark.parametrize(
    "part",
    [(-3, -1, 0, 6), (-4, 0, 0, 6), (0, 4, -4, 10), (4, 8, 6, 12), (4, 7, 6, 11), (7, 9, 0, 6)],
)
def test_ranges_past_the_ends_are_cut_as_zarr_cuts_them(part: Range, tmp_path: Path) -> None:
    array = History(make(tmp_path / "run.zarr", "fast", None)).weights
    assert same_bits(ChunkReader(array).read(*part), slow(array, part))


def test_lossless_presets_give_what_was_recorded(tmp_path: Path) -> None:
    bits = np.array([0x7FC00001, 0xFF800123, 0x80000000, 1, 0x7F800000, 0xFFFFFFFF], np.uint32)
    weights = np.tile(bits.view(np.float32), (5, 1))
    recorded = Recorded(wandering(6, 5).table, list(range(5)), weights)
    for preset in ("fast", "compact"):
        path = recorded.write(tmp_path / preset, block=8, preset=preset)
        assert same_bits(ChunkReader(History(path).weights).read(0, 6, 0, 5), weights.T.copy())


def test_the_buffer_is_used_again(tmp_path: Path) -> None:
    array = History(make(tmp_path / "run.zarr", "fast", None)).weights
    reader = ChunkReader(array)
    first, second = reader.read(0, 4, 0, 6), reader.read(4, 7, 6, 10)
    assert np.shares_memory(first, second)
    assert not np.shares_memory(first, ChunkReader(array).read(0, 4, 0, 6))


@each_preset
def test_readers_in_several_threads(preset: str, error: float | None, tmp_path: Path) -> None:
    recorded = wandering(600, 64)
    path = recorded.write(tmp_path / "run.zarr", block=16, width=64, preset=preset, error=error)
    array = History(path).weights
    expected = {part: slow(array, part) for part in chunks(array)}

    def wrong(_: int) -> list[Range]:
        reader = ChunkReader(array)
        found = expected.items()
        return [part for part, values in found if not same_bits(reader.read(*part), values)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, range(8))) == [[]] * 8


LZ4 = BloscCodec(cname="lz4", typesize=4)
CHECKED = [LZ4, Crc32cCodec()]  # is read fast, but for what stands before it
FOREIGN: dict[str, dict[str, Any]] = {
    "big-endian": {"serializer": BytesCodec(endian="big"), "compressors": CHECKED},
    "transposed": {"filters": [TransposeCodec(order=(1, 0))], "compressors": CHECKED},
    "blosc of blosc": {"compressors": [LZ4, *CHECKED]},
    "blosc of pcodec": {"serializer": PCodec(), "compressors": CHECKED},
    "zstd": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "no checksum": {"compressors": [LZ4]},
    "checksum within": {"compressors": CHECKED[::-1]},
    "not compressed": {"compressors": None},
}


@pytest.mark.parametrize("codecs", FOREIGN)
def test_other_codecs_go_through_zarr(codecs: str, tmp_path: Path) -> None:
    values = wandering(7, 10).weights.T
    group = zarr.create_group(tmp_path / "run.zarr")
    form = {"shape": (7, 10), "chunks": (4, 6), "dtype": "float32"}
    group.create_array("weights", **form, **FOREIGN[codecs])[...] = values
    array = open_group(tmp_path / "run.zarr")["weights"]
    assert isinstance(array, zarr.Array)
    for low, high, start, stop in chunks(array):
        found = ChunkReader(array).read(low, high, start, stop)
        assert np.array_equal(found, values[low:high, start:stop])


def test_a_store_of_somebody_else_goes_through_zarr(tmp_path: Path) -> None:
    class Shifted(LocalStore):
        """Has its files elsewhere."""

        async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
            return await super().get(key.replace("/c/1/", "/c/0/"), *args, **kwargs)

    array = History(Shifted(make(tmp_path / "run.zarr", "fast", None))).weights
    expected = slow(array, (0, 3, 0, 6))
    assert same_bits(ChunkReader(array).read(4, 7, 0, 6), expected)


def test_a_url(tmp_path: Path) -> None:
    path = make(tmp_path / "run.zarr", "compact", None)
    here, there = History(path).weights, History(f"file://{path}").weights
    assert same_bits(ChunkReader(there).read(0, 4, 0, 6), slow(here, (0, 4, 0, 6)))


def sealed(body: bytes) -> bytes:
    """A chunk file with the right checksum."""
    return body + google_crc32c.value(body).to_bytes(4, "little")


def resized(at: int, change: int) -> Callable[[Path], object]:
    """Another length in a Blosc header, of the decoded or of the encoded bytes."""

    def damage(chunk: Path) -> None:
        body = bytearray(chunk.read_bytes()[:-4])
        length = int.from_bytes(body[at : at + 4], "little") + change
        body[at : at + 4] = length.to_bytes(4, "little")
        chunk.write_bytes(sealed(bytes(body)))

    return damage


def replaced_by(body: bytes) -> Callable[[Path], object]:
    return lambda chunk: chunk.write_bytes(sealed(body))


def cut(kept: int) -> Callable[[Path], object]:
    return lambda chunk: chunk.write_bytes(chunk.read_bytes()[:kept])


def flipped(at: float) -> Callable[[Path], object]:
    def damage(chunk: Path) -> None:
        data = bytearray(chunk.read_bytes())
        data[int(at * (len(data) - 1))] ^= 4
        chunk.write_bytes(data)

    return damage


def in_its_place(create: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(chunk: Path) -> None:
        chunk.unlink()
        create(chunk)

    return damage


NUMBERS = np.zeros(24, np.float32)  # as many as a chunk has
DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "folder": in_its_place(Path.mkdir),
    "pipe": in_its_place(os.mkfifo),
    "dangling link": in_its_place(lambda chunk: chunk.symlink_to("nowhere")),
    "too large": lambda chunk: os.truncate(chunk, 2 << 20),
    "its folder is a file": lambda chunk: (shutil.rmtree(chunk.parent), chunk.parent.touch()),
    "nothing but a checksum": replaced_by(b""),
    **{f"flipped at {at:.0%}": flipped(at) for at in (0, 0.1, 0.5, 0.9, 1)},
    **{f"cut at {kept}": cut(kept) for kept in (0, 1, 3, 4, 5, 12, 19, 20, 40, -5, -4, -1)},
}
ENCODED: dict[str, dict[str, Callable[[Path], object]]] = {  # with a checksum that is right
    "fast": {
        "decoded longer": resized(4, 4),
        "decoded shorter": resized(4, -4),
        "decoded to 4 GB": resized(4, 2**32 - 97),
        "encoded longer": resized(12, 1),
        "encoded shorter": resized(12, -1),
        "more numbers": replaced_by(Blosc("lz4").encode(np.zeros((8, 6), np.float32))),
        "fewer numbers": replaced_by(Blosc("lz4").encode(np.zeros((4, 5), np.float32))),
        "more after its end": lambda chunk: chunk.write_bytes(
            sealed(chunk.read_bytes()[:-4] + b"more")
        ),
        "cut header": replaced_by(b"\x02\x01\x21\x04" + bytes([96, 0, 0, 0])),
        "no such codec": lambda chunk: chunk.write_bytes(
            sealed(b"\x02\x01\xf1" + chunk.read_bytes()[3:-4])
        ),
    },
    "compact": {
        "one number less": replaced_by(standalone.simple_compress(NUMBERS[1:], ChunkConfig())),
        "one number more": replaced_by(
            standalone.simple_compress(np.append(NUMBERS, NUMBERS[:1]), ChunkConfig())
        ),
        "other numbers": replaced_by(
            standalone.simple_compress(NUMBERS.astype(np.float64), ChunkConfig())
        ),
        "nonsense": replaced_by(b"pco?" * 9),
    },
    "bounded": {
        "other bound": replaced_by(encode(NUMBERS.reshape(4, 6), 2e-3)),
        "other form": replaced_by(encode(NUMBERS.reshape(6, 4)[:3], 1e-3)),
        "nonsense": replaced_by(bytes(9)),
    },
}
CASES = [(*preset, name, DAMAGE[name]) for preset in PRESETS for name in DAMAGE]
CASES += [(*p, name, damage) for p in PRESETS for name, damage in ENCODED[p[0]].items()]


@pytest.mark.parametrize(
    ("preset", "error", "damage"),
    [pytest.param(p, error, damage, id=f"{p}: {name}") for p, error, name, damage in CASES],
)
def test_damage_names_the_chunk(
    preset: str,
    error: float | None,
    damage: Callable[[Path], object],
    tmp_path: Path,
    without_zarr: Callable[[], None],
) -> None:
    path = make(tmp_path / "run.zarr", preset, error)
    array = History(path).weights
    good = slow(array, (0, 4, 0, 6))
    damage(path / "weights/c/1/0")
    without_zarr()
    reader = ChunkReader(array)
    assert same_bits(reader.read(0, 4, 0, 6), good)
    with refuses(FormatError, path, "weights/c/1/0", "damaged"):
        reader.read(4, 7, 0, 6)
    assert same_bits(reader.read(0, 4, 0, 6), good)  # the reader goes on


@each_preset
def test_damage_says_what_to_do(preset: str, error: float | None, tmp_path: Path) -> None:
    path = make(tmp_path / "run.zarr", preset, error)
    reader = ChunkReader(History(path).weights)
    for damage in (flipped(0.5), Path.unlink):
        damage(path / "weights/c/1/0")
        with refuses(FormatError, "weightcast verify"):
            reader.read(4, 7, 0, 6)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    history = History(make(tmp_path / "run.zarr", "fast", None))
    options = Options(steps_per_chunk=3, parameters_per_chunk=2, shard=2 * 3 * 4 * 2)
    compact(history, tmp_path / "shards.zarr", plan_compaction(history, options=options))
    array = History(tmp_path / "shards.zarr").weights
    assert array.shards == (4, 3)
    flipped(0.1)(tmp_path / "shards.zarr/weights/c/1/2")
    with refuses(FormatError, "shards.zarr/weights", "c/1/2", "weightcast verify"):
        ChunkReader(array).read(4, 6, 6, 9)


def test_a_folder_replaced_since_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "run.zarr", "fast", None)
    reader = ChunkReader(History(path).weights)
    path.rename(tmp_path / "old.zarr")
    with refuses(FormatError, path, "open it again"):
        reader.read(0, 4, 0, 6)
    shutil.copytree(tmp_path / "old.zarr", path)
    with refuses(FormatError, path, "open it again"):
        reader.read(0, 4, 0, 6)


def test_a_file_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "run.zarr", "fast", None)
    reader = ChunkReader(History(path).weights)

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)  # as root, no mode of a file would
    with pytest.raises(PermissionError):
        reader.read(0, 4, 0, 6)


NOISE = """
import sys
from weightcast.store import FormatError, History
from weightcast.store.decoding import ChunkReader

for path in sys.argv[1:]:
    array = History(path).weights
    for part in ((0, 4, 0, 6), (0, 7, 0, 10)):  # a chunk; several, through zarr
        try:
            ChunkReader(array).read(*part)
        except FormatError:
            print("refused")
"""


def test_nothing_else_is_printed(tmp_path: Path) -> None:
    paths = [make(tmp_path / preset, preset, error) for preset, error in PRESETS]
    for path in paths:
        for chunk in (path / "weights/c").rglob("?"):
            if chunk.is_file():
                flipped(0.5)(chunk)
    run = subprocess.run(
        [sys.executable, "-c", NOISE, *map(str, paths)], capture_output=True, text=True, check=True
    )
    assert (run.stdout.split(), run.stderr) == (["refused"] * 6, "")
