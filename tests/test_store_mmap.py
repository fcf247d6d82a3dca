"""MmapStore: zarr's own suite for stores, and that it maps, copies nothing and holds nothing."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.storage import LocalStore
from zarr.testing.store import StoreTests

from weightcast.store import History, MmapStore

PROTOTYPE = default_buffer_prototype()
GOLDEN = Path(__file__).parent / "golden/history-v1.zarr"


def blocking(cls: type) -> type:
    """Let a class run the asynchronous tests that it inherits, without a plug-in for pytest."""
    for name, test in inspect.getmembers(cls, inspect.iscoroutinefunction):
        if name.startswith("test_"):

            def run(*args: Any, test: Any = test, **kwargs: Any) -> None:
                asyncio.run(test(*args, **kwargs))

            runner = functools.wraps(test)(run)
            signature = inspect.signature(test)
            runner.__signature__ = signature  # type: ignore[attr-defined]
            setattr(cls, name, runner)
    return cls


@blocking
class TestMmapStore(StoreTests[MmapStore, cpu.Buffer]):
    store_cls = MmapStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"root": str(tmp_path)}

    @pytest.fixture
    def store(self, open_kwargs: dict[str, Any]) -> MmapStore:
        return asyncio.run(MmapStore.open(**open_kwargs))

    @pytest.fixture
    def store_not_open(self, store_kwargs: dict[str, Any]) -> MmapStore:
        return MmapStore(**store_kwargs)

    async def get(self, store: MmapStore, key: str) -> Buffer:
        return self.buffer_cls.from_bytes((store.root / key).read_bytes())

    async def set(self, store: MmapStore, key: str, value: Buffer) -> None:
        (store.root / key).parent.mkdir(parents=True, exist_ok=True)
        (store.root / key).write_bytes(value.to_bytes())

    def test_store_repr(self, store: MmapStore) -> None:
        assert repr(store) == f"MmapStore('file://{store.root.as_posix()}')"

    def test_store_supports_writes(self, store: MmapStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: MmapStore) -> None:
        assert store.supports_listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "value").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "empty").touch()
    return tmp_path


def get(folder: Path, key: str, request: Any = None) -> np.ndarray:
    value = MmapStore(folder).get_sync(key, prototype=PROTOTYPE, byte_range=request)
    assert value is not None
    return value.as_numpy_array()


def mapped_file(array: np.ndarray) -> str | None:
    """The file that the memory of an array is mapped from, as the kernel says."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(x, 16) for x in line.split()[0].split("-"))
        if low <= address < high:
            return line.split(maxsplit=5)[5] if len(line.split()) > 5 else None
    return None


needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")


@needs_proc
@pytest.mark.parametrize("request_", [None, RangeByteRequest(7, 9000), SuffixByteRequest(5)])
def test_a_value_is_the_map_itself_and_read_only(folder: Path, request_: Any) -> None:
    value = get(folder, "value", request_)
    assert mapped_file(value) == str(folder / "value")
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 1


@needs_proc
def test_an_uncompressed_chunk_is_not_copied_by_zarr(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", data=np.arange(5000), chunks=(5000,), compressors=None)
    chunk = get(tmp_path / "a", "c/0").view(np.int64)
    assert mapped_file(chunk) == str(tmp_path / "a/c/0")
    array = zarr.open_array(MmapStore(tmp_path / "a"), mode="r")
    assert np.array_equal(array[:], chunk)


LENGTH = 25600
POSITIONS = st.integers(0, LENGTH + 3) | st.integers(4090, 4100)
REQUESTS = st.one_of(
    st.none(),
    st.builds(lambda a, b: RangeByteRequest(min(a, b), max(a, b) + 1), POSITIONS, POSITIONS),
    st.builds(OffsetByteRequest, POSITIONS),
    st.builds(SuffixByteRequest, POSITIONS),
)


@given(request=REQUESTS, key=st.sampled_from(["value", "empty"]))
def test_any_byte_request_gives_what_local_store_gives(
    tmp_path_factory: pytest.TempPathFactory, request: Any, key: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "requests"
    if not folder.exists():
        folder.mkdir()
        (folder / "value").write_bytes(bytes(range(256)) * 100)
        (folder / "empty").touch()

    async def read(store: LocalStore) -> list[bytes]:
        values = [await store.get(key, PROTOTYPE, request)]
        values += await store.get_partial_values(PROTOTYPE, [(key, request)])
        return [v.to_bytes() for v in values if v is not None]

    ours, theirs = (asyncio.run(read(cls(folder))) for cls in (MmapStore, LocalStore))
    assert ours == theirs
    assert len(ours) == 2


def test_what_is_no_file_is_missing(folder: Path) -> None:
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")  # a read would wait for ever
    (folder / "device").symlink_to("/dev/zero")  # and this one would not end
    store = MmapStore(folder)
    for key in ("sub", "pipe", "device", "none", "value/below"):
        assert store.get_sync(key) is None
    several = store.get_partial_values(PROTOTYPE, [("none", None), ("empty", None)])
    none, empty = asyncio.run(several)
    assert none is None
    assert empty is not None
    assert len(empty) == 0


def test_a_map_survives_the_file_being_replaced_or_deleted(folder: Path) -> None:
    before = get(folder, "value")
    kept = before.copy()
    (folder / "new").write_bytes(b"x" * 10)
    (folder / "new").replace(folder / "value")
    assert np.array_equal(before, kept)
    assert get(folder, "value").tobytes() == b"x" * 10
    (folder / "value").unlink()
    assert np.array_equal(before, kept)


@needs_proc
def test_the_store_holds_no_maps(folder: Path) -> None:
    store = MmapStore(folder)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        store.get_sync("value")
    kept = store.get_sync("value")
    assert Path("/proc/self/maps").read_text().count(str(folder / "value")) == 1
    del kept
    assert str(folder / "value") not in Path("/proc/self/maps").read_text()
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


LARGE = """
import resource, sys, zarr
from weightcast.store import MmapStore
small, large = (zarr.open_array(MmapStore(path), mode="r") for path in sys.argv[1:])
assert small[-1] == 7  # whatever a read imports and starts, it has now
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert large.chunks == (1 << 30,)
assert large[-1] == 7 and large[1 << 20] == 0
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@needs_proc
def test_a_large_chunk_is_read_by_the_page(tmp_path: Path) -> None:
    paths = [tmp_path / "small", tmp_path / "large"]
    for path, size in zip(paths, [10, 1 << 30], strict=True):
        zarr.create_array(path, shape=(size,), chunks=(size,), dtype="float32", compressors=None)
        (path / "c").mkdir()
        with (path / "c/0").open("wb") as file:  # of 4 GB, one page is not a hole
            file.seek(4 * size - 4)
            file.write(np.float32(7).tobytes())
    done = subprocess.run(
        [sys.executable, "-c", LARGE, *map(str, paths)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64  # MB


def test_a_history_reads_through_it() -> None:
    mapped, plain = History(MmapStore(GOLDEN)), History(GOLDEN)
    for step in plain.steps:
        for name, values in plain.state(step).items():
            assert mapped.state(step)[name].tobytes() == values.tobytes()
    assert mapped.info().stored_bytes == plain.info().stored_bytes
