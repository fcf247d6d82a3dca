"""Histories behind URLs and in Zarr stores: read like local ones, or refused in one line."""

from __future__ import annotations

import json
import pickle
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import obstore
import pytest
import zarr
from s3_server import KEY, Bucket, serving
from store_reference import files, refuses, same_bits, wandering
from zarr.storage import LocalStore, MemoryStore, ObjectStore, ZipStore

from weightcast.cli.main import main
from weightcast.store import (
    Dataset,
    FormatError,
    History,
    HistoryWriter,
    InputNotFoundError,
    MissingExtraError,
    MmapStore,
    RemoteError,
    UsageError,
    build_dataset,
    open_stored,
)

GOLDEN = Path(__file__).parent / "golden/history-v1.zarr"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket of which the environment holds endpoint and key, as a user's would."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    with serving() as served:
        environment = {
            "AWS_ENDPOINT_URL": served.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            # Nothing in a test asks the cloud's own service for a key.
            "AWS_METADATA_ENDPOINT": served.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield served


@pytest.fixture
def url(bucket: Bucket) -> str:
    return bucket.upload(GOLDEN, "runs/run.zarr")


def same(one: History, other: History) -> None:
    """Two histories hold the same, by every way to read them."""
    assert same_bits(one.steps, other.steps)
    assert same_bits(one.times, other.times)
    assert one.header == other.header
    for step in other.steps:
        assert same_bits(one.snapshot(step), other.snapshot(step))
        states = one.state(step), other.state(step)
        assert states[0].keys() == states[1].keys()
        assert all(same_bits(states[0][name], states[1][name]) for name in states[1])
    for p in other.parameters:
        assert same_bits(one[p.name], other[p.name])
    assert one.metrics == other.metrics
    for name in other.metrics:
        assert all(map(same_bits, one.metric(name), other.metric(name)))
    facts = one.info()
    assert facts.stored_bytes == other.info().stored_bytes
    assert facts.path == str(one.path)


def test_a_history_in_s3_reads_like_a_local_one(url: str) -> None:
    history = History(url)
    same(history, History(GOLDEN))
    assert history.path == url
    assert repr(history) == f"History('{url}': 12 weights x 5, steps 0 to 8)"
    same(pickle.loads(pickle.dumps(history)), history)  # as worker processes get it
    with refuses(UsageError, url, "local"):
        history.folder  # noqa: B018


def test_options_stand_in_for_the_environment(
    url: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    options = {
        "endpoint": bucket.endpoint,
        "access_key_id": KEY,
        "secret_access_key": "secret",
        "region": "us-east-1",
    }
    history = History(url, storage_options=options)
    same(history, History(GOLDEN))
    same(pickle.loads(pickle.dumps(history)), history)
    with refuses(UsageError, "nonsense"):
        History(url, storage_options={"nonsense": 1})


def test_a_chunk_costs_one_request(url: str, bucket: Bucket) -> None:
    history = History(url)
    assert len(bucket.requests) == len(set(bucket.requests))
    bucket.requests.clear()
    history.snapshot(4)
    assert bucket.requests == ["GET runs/run.zarr/weights/c/0/1"]
    bucket.requests.clear()
    history["fc.weight"]
    assert sorted(bucket.requests) == [f"GET runs/run.zarr/weights/c/0/{i}" for i in range(3)]


def test_damage_is_noticed_from_afar(url: str, bucket: Bucket) -> None:
    history, chunk = History(url), "runs/run.zarr/weights/c/0/1"
    data = bucket.objects.pop(chunk)
    with refuses(FormatError, url, "weights/c/0/1", "missing"):
        history.snapshot(4)
    bucket.objects[chunk] = data[:-1]
    with refuses(FormatError, url, "decode"):
        history.snapshot(4)
    bucket.objects[chunk] = bytes(3 << 20)
    with refuses(FormatError, url, "weights/c/0/1", 3 << 20):
        history.snapshot(4)
    bucket.objects[chunk] = data
    assert same_bits(history.snapshot(4), History(GOLDEN).snapshot(4))
    bucket.objects.pop("runs/run.zarr/step/zarr.json")
    with refuses(FormatError, url, "step"):
        History(url)


def test_not_every_chunk_of_very_many_is_asked_for(url: str, bucket: Bucket) -> None:
    rows = 10_000_000
    for name in ("weights", "buffers", "step"):
        key = f"runs/run.zarr/{name}/zarr.json"
        document = json.loads(bucket.objects[key])
        document["shape"][-1] = rows
        bucket.objects[key] = json.dumps(document).encode()
    header = json.loads(bucket.objects["runs/run.zarr/zarr.json"])
    header["attributes"]["weightcast"]["committed"] = rows
    bucket.objects["runs/run.zarr/zarr.json"] = json.dumps(header).encode()
    with refuses(FormatError, url, "step", "missing"):
        History(url)
    assert len(bucket.requests) < 10


def test_a_server_that_is_busy_is_not_asked_for_ever(url: str, bucket: Bucket) -> None:
    bucket.broken = True
    with refuses(RemoteError, url, "503"):
        History(url)
    assert 1 < len(bucket.requests) <= 4


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_what_cannot_be_read_is_said_in_one_line(
    url: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refuses(InputNotFoundError, "s3://nothing/run.zarr"):
        History("s3://nothing/run.zarr")
    with refuses(InputNotFoundError, "s3://bucket/runs"):
        History("s3://bucket/runs")
    bucket.upload(GOLDEN / "weights", "array")
    with refuses(FormatError, "s3://bucket/array"):
        History("s3://bucket/array")
    history = History(url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "WRONG")
    with refuses(RemoteError, url, "403"):
        History(url)
    bucket.secret_key = "CHANGED"
    with refuses(RemoteError, url, "403"):
        history.snapshot(4)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    with refuses(RemoteError, url):
        History(url)
    with refuses(UsageError, "nothing://bucket/run.zarr"):
        History("nothing://bucket/run.zarr")


def test_the_error_of_an_answer_is_an_oserror(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "WRONG")
    with pytest.raises(OSError, match="403"):
        History(url)


def test_a_missing_library_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with refuses(MissingExtraError, url, "weightcast[remote]"):
        History(url)
    assert main(["info", url]) == 1


def test_info_on_the_command_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", url]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == url
    assert facts["stored_bytes"] == sum(len(data) for data in files_of(GOLDEN).values())
    assert main(["info", url]) == 0
    assert "fc.weight" in capsys.readouterr().out
    assert main(["info", "s3://nothing/run.zarr"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_dataset_is_built_from_s3(bucket: Bucket, tmp_path: Path) -> None:
    local = wandering(40, 30).write(tmp_path / "run.zarr", width=16)
    url = bucket.upload(local, "runs/wandering.zarr")
    kwargs: dict[str, Any] = {"samples": 20, "seed": 3}
    build_dataset(local, tmp_path / "local.zarr", **kwargs)
    built = build_dataset(url, tmp_path / "remote.zarr", **kwargs)
    assert files(tmp_path / "remote.zarr") == files(tmp_path / "local.zarr")
    assert built.source == url


def test_a_copy_is_compacted_exported_and_verified_from_s3(url: str, tmp_path: Path) -> None:
    copy, checkpoint = tmp_path / "copy.zarr", tmp_path / "at-4.safetensors"
    assert main(["compact", url, "-o", str(copy)]) == 0
    for step in History(GOLDEN).steps:
        assert same_bits(History(copy).snapshot(step), History(GOLDEN).snapshot(step))
    assert main(["export", url, "--step", "4", "-o", str(checkpoint)]) == 0
    assert checkpoint.stat().st_size
    assert main(["verify", url]) == 0
    assert main(["compact", "--in-place", url]) == 2


def test_a_dataset_itself_must_be_local(bucket: Bucket, tmp_path: Path) -> None:
    url = bucket.upload(GOLDEN.with_name("dataset-v1.zarr"), "data.zarr")
    with refuses(UsageError, url, "local"):
        open_stored(url)
    assert isinstance(open_stored(str(GOLDEN.with_name("dataset-v1.zarr"))), Dataset)
    with refuses(UsageError, url):
        build_dataset(GOLDEN, url, 5)


def test_a_web_server_that_lists_nothing_will_do() -> None:
    with serving(secret=False) as server:
        server.upload(GOLDEN, "run.zarr")
        history = History(f"{server.endpoint}/{server.name}/run.zarr")
        for step in history.steps:
            assert same_bits(history.snapshot(step), History(GOLDEN).snapshot(step))
        groups = [GOLDEN / "metrics/zarr.json", GOLDEN / "metrics/loss/zarr.json"]
        known = History(GOLDEN).info().stored_bytes - sum(f.stat().st_size for f in groups)
        assert history.info().stored_bytes == known


def in_memory(folder: Path) -> MemoryStore:
    values = {k: zarr.core.buffer.cpu.Buffer.from_bytes(v) for k, v in files_of(folder).items()}
    return MemoryStore(values)  # type: ignore[arg-type]


def in_zip(folder: Path, tmp_path: Path) -> ZipStore:
    import zipfile

    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        for name, data in files_of(folder).items():
            archive.writestr(name, data)
    return ZipStore(tmp_path / "run.zip", mode="r")


def in_obstore(folder: Path) -> ObjectStore[Any]:
    store = obstore.store.MemoryStore()
    for name, data in files_of(folder).items():
        obstore.put(store, name, data)
    return ObjectStore(store)


STORES = {
    "local": lambda _: LocalStore(GOLDEN),
    "mapped": lambda _: MmapStore(GOLDEN),
    "memory": lambda _: in_memory(GOLDEN),
    "zip": lambda tmp_path: in_zip(GOLDEN, tmp_path),
    "obstore": lambda _: in_obstore(GOLDEN),
}


@pytest.mark.parametrize("kind", STORES)
def test_any_zarr_store_will_do(kind: str, tmp_path: Path) -> None:
    history = History(STORES[kind](tmp_path))
    same(history, History(GOLDEN))
    with refuses(UsageError, "storage options"):
        History(STORES[kind](tmp_path), storage_options={"a": 1})


def test_any_url_of_fsspec_will_do(tmp_path: Path) -> None:
    same(History(f"file://{GOLDEN}"), History(GOLDEN))
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/runs/{name}": data for name, data in files_of(GOLDEN).items()})
    same(History("memory://runs"), History(GOLDEN))
    chunk = "/runs/weights/c/0/1"
    memory.rm(chunk)
    with refuses(FormatError, "memory://runs", "missing"):
        History("memory://runs").snapshot(4)
    memory.rm("/runs", recursive=True)
    with refuses(InputNotFoundError, "memory://runs"):
        History("memory://runs")


def test_recording_is_local(url: str, tmp_path: Path) -> None:
    table = History(GOLDEN).parameters
    with refuses(UsageError, "s3://bucket/new.zarr", "local"):
        HistoryWriter.create("s3://bucket/new.zarr", table)
    assert np.array_equal(History(url).steps, [0, 1, 2, 4, 8])
