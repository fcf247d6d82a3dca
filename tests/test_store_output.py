"""Outputs appear whole or not at all, and what stood there is not lost."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zarr
from store_reference import Killed, refuses, vector

from weightcast.store import History, HistoryWriter, InputNotFoundError, OutputExistsError
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.swapping import HOST

Make = Callable[[Path], object]


def write_file(path: Path, text: str = "new") -> None:
    path.write_text(text)


def write_folder(path: Path, text: str = "new") -> None:
    (path / "deep").mkdir(parents=True)
    (path / "deep/file").write_text(text)


def content(path: Path) -> str:
    return (path / "deep/file" if path.is_dir() else path).read_text()


KINDS = [write_file, write_folder]


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ---- refuse_existing


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_free_path_is_returned(tmp_path: Path, overwrite: bool) -> None:
    path = tmp_path / "not/there/out.zarr"
    assert refuse_existing(str(path), overwrite=overwrite) == path
    assert left_in(tmp_path) == []


def ours(path: Path) -> None:
    HistoryWriter.create(path, vector(2)).close()


@pytest.mark.parametrize("make", [write_file, ours])
def test_what_is_ours_is_replaced_only_when_told(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "out"
    make(path)
    with refuses(OutputExistsError, path, "--overwrite", ", or more with --append"):
        refuse_existing(path, hint=", or more with --append")
    with pytest.raises(FileExistsError):
        refuse_existing(path)
    assert refuse_existing(path, overwrite=True) == path


def dataset_of(path: Path) -> None:
    """What marks a folder as a dataset: the header with its recipe."""
    group_with({"weightcast": {"recipe": {}}})(path)


@pytest.mark.parametrize(
    ("make", "kind"), [(write_file, "file"), (ours, "history"), (dataset_of, "dataset")]
)
def test_only_the_same_kind_is_replaced(tmp_path: Path, make: Make, kind: str) -> None:
    path = tmp_path / "out"
    make(path)
    for other in ("file", "history", "dataset"):
        if other == kind:
            assert refuse_existing(path, overwrite=True, kind=kind) == path
        else:
            with refuses(OutputExistsError, path, other):
                refuse_existing(path, overwrite=True, kind=other)


@pytest.mark.parametrize("spelling", ["out", "./out", "in/../out", "link"])
def test_an_input_is_never_replaced(
    tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours(tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("out")
    monkeypatch.chdir(tmp_path)
    with refuses(OutputExistsError, "out"):
        refuse_existing("out", overwrite=True, inputs=["in", spelling])


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "file")
    with refuses(OutputExistsError, tmp_path / "file"):
        refuse_existing(tmp_path / "file/out.zarr")


def group_with(attributes: object) -> Make:
    """A folder whose zarr.json has these attributes, of whatever type."""

    def make(path: Path) -> None:
        path.mkdir()
        document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        (path / "zarr.json").write_text(json.dumps(document))

    return make


def header_of(data: bytes) -> Make:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "zarr.json").write_bytes(data)

    return make


FOREIGN: dict[str, Make] = {
    "empty folder": Path.mkdir,
    "folder": write_folder,
    "zarr group": lambda path: zarr.create_group(path),
    "zarr array": lambda path: zarr.create_array(path, shape=(1,), dtype="int8"),
    "zarr format 2": lambda path: zarr.create_group(path, zarr_format=2),
    "attributes missing": group_with(None),
    "attributes a number": group_with(5),
    "attributes a list": group_with(["weightcast"]),
    "attributes a text": group_with("weightcast"),
    "our name on a note": group_with({"weightcast": "see the paper"}),
    "header a list": header_of(b'["weightcast"]'),
    "header garbage": header_of(b"\xff\xfe"),
    "header deep": header_of(b"[" * 50_000),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_never_given_away(tmp_path: Path, case: str, overwrite: bool) -> None:
    FOREIGN[case](tmp_path / "out")
    with refuses(OutputExistsError, tmp_path / "out", "choose another path"):
        refuse_existing(tmp_path / "out", overwrite=overwrite)


# ---- replacing


@pytest.mark.parametrize("new", KINDS)
def test_an_output_appears_when_it_is_whole(tmp_path: Path, new: Make) -> None:
    path = tmp_path / "made/on/the/way/out.zarr"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".zarr"
        assert not temporary.exists()
        new(temporary)
        assert not path.exists()
    assert content(path) == "new"
    assert left_in(path.parent) == ["out.zarr"]


@pytest.fixture
def two_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot let two paths change places in one step."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())


@pytest.mark.parametrize("one_step", [True, False])
@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_the_old_stands_until_the_new_is_whole(
    tmp_path: Path, old, new, one_step: bool, request: pytest.FixtureRequest
) -> None:
    if not one_step:
        request.getfixturevalue("two_renames")
    path = tmp_path / "out.zarr"
    old(path, "old")
    with replacing(path) as temporary:
        new(temporary)
        assert content(path) == "old"
    assert content(path) == "new"
    assert left_in(tmp_path) == ["out.zarr"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", [None, *KINDS])
def test_a_failure_leaves_the_old_and_nothing_else(
    tmp_path: Path, old, new, error: type[BaseException]
) -> None:
    path = tmp_path / "out.zarr"
    if old:
        old(path, "old")

    def fail(temporary: Path) -> None:
        new(temporary)
        raise error

    with pytest.raises(error), replacing(path) as temporary:
        fail(temporary)
    assert left_in(tmp_path) == (["out.zarr"] if old else [])
    assert old is None or content(path) == "old"


@pytest.mark.parametrize("old", KINDS)
def test_nothing_written_leaves_the_old(tmp_path: Path, old) -> None:
    path = tmp_path / "out.zarr"
    old(path, "old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert content(path) == "old"
    assert left_in(tmp_path) == ["out.zarr"]


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_a_swap_that_fails_leaves_the_old(
    tmp_path: Path, old, new, two_renames: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a network file system that goes away at the worst moment
    path = tmp_path / "out.zarr"
    old(path, "old")
    swap = os.replace

    def replace(source: Path, target: Path) -> None:
        if "partial" in str(source):
            raise OSError("stale file handle")
        swap(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="stale"), replacing(path) as temporary:
        new(temporary)
    assert content(path) == "old"
    assert left_in(tmp_path) == ["out.zarr"]


@pytest.mark.parametrize("new", KINDS)
def test_remains_of_a_killed_process_do_not_stand_in_the_way(
    tmp_path: Path, new, monkeypatch: pytest.MonkeyPatch
) -> None:
    # process numbers come again, in containers often at once
    path = tmp_path / "out.zarr"
    write_folder(path, "old")

    def killed(*_: object) -> None:
        raise Killed

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", killed)
            with pytest.raises(Killed), replacing(path) as temporary:
                write_folder(temporary)
        assert content(path) == "new"
    with replacing(path) as temporary:
        assert not temporary.exists()
        new(temporary, "newer")
    assert content(path) == "newer"
    assert left_in(tmp_path) == ["out.zarr"]


def test_a_link_is_replaced_and_not_what_it_points_to(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", "kept")
    (tmp_path / "out.zarr").symlink_to(tmp_path / "elsewhere")
    with replacing(tmp_path / "out.zarr") as temporary:
        write_folder(temporary)
    assert content(tmp_path / "out.zarr") == "new"
    assert content(tmp_path / "elsewhere") == "kept"
    assert not (tmp_path / "out.zarr").is_symlink()


@pytest.mark.parametrize("new", KINDS)
def test_a_link_to_nothing_is_replaced(tmp_path: Path, new) -> None:
    (tmp_path / "out.zarr").symlink_to(tmp_path / "gone")
    with replacing(tmp_path / "out.zarr") as temporary:
        new(temporary)
    assert content(tmp_path / "out.zarr") == "new"
    assert left_in(tmp_path) == ["out.zarr"]


def test_two_outputs_at_once_do_not_meet(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.zarr") as a, replacing(tmp_path / "b.zarr") as b:
        write_folder(a, "a")
        write_folder(b, "b")
    assert content(tmp_path / "a.zarr") == "a"
    assert content(tmp_path / "b.zarr") == "b"


# ---- what a killed process leaves


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_two_folders_change_places_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.zarr"
    write_folder(path, "old")

    def no_rename(*_: object) -> None:
        raise AssertionError("something stood nowhere for a moment")

    monkeypatch.setattr(os, "replace", no_rename)
    monkeypatch.setattr(os, "rename", no_rename)
    with replacing(path) as temporary:
        write_folder(temporary)
    assert content(path) == "new"
    assert left_in(tmp_path) == ["out.zarr"]


@pytest.mark.parametrize("make", KINDS)
def test_what_dead_processes_left_is_removed(tmp_path: Path, make: Make) -> None:
    dead = dead_process()
    kept = [
        f".out.partial-{HOST}-{os.getppid()}.zarr",  # its process lives
        f".out.partial-01234567-{dead}.zarr",  # of another machine, where it may live
        f".other.partial-{HOST}-{dead}.zarr",  # another output
        f".out.partial-{HOST}-{dead}",  # another suffix
        f".out.partial-{HOST}-{dead}x.zarr",
        f".out.partial-{HOST}-.zarr",
        f".out.partial-{dead}.zarr",
        f".out.retired-{HOST}-{dead}.zarr",  # may be all there is of the old
        f"out.partial-{HOST}-{dead}.zarr",
        f".out.partial-{HOST}-{'9' * 30}.zarr",
    ]
    for name in (f".out.partial-{HOST}-{dead}.zarr", *kept):
        make(tmp_path / name)
    with replacing(tmp_path / "out.zarr") as temporary:
        assert left_in(tmp_path) == sorted(kept)
        make(temporary)
    assert left_in(tmp_path) == sorted([*kept, "out.zarr"])


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_the_renames_leaves_the_old_or_the_new(
    tmp_path: Path, renames: int, two_renames: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, made = tmp_path / "out.zarr", tmp_path / "made"
    ours(path)
    HistoryWriter.create(made, vector(3)).close()
    done: list[object] = []
    replace = os.replace

    def killed(*_: object) -> None:
        raise Killed

    def count(source: Path, target: Path) -> None:
        if len(done) == renames:
            for name in ("replace", "rename"):
                monkeypatch.setattr(os, name, killed)
            monkeypatch.setattr(shutil, "rmtree", killed)
            raise Killed
        done.append(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", count)
    with pytest.raises(Killed), replacing(path) as temporary:
        shutil.copytree(made, temporary)
    monkeypatch.undo()
    if renames != 1:
        assert History(path).parameters.size == (2 if renames == 0 else 3)
        return
    (retired,) = tmp_path.glob(".out.retired-*.zarr")
    for look in (History, refuse_existing, lambda p: refuse_existing(p, overwrite=True)):
        with refuses((InputNotFoundError, OutputExistsError), path, retired, "rename"):
            look(path)
    with refuses(OutputExistsError, retired):
        HistoryWriter.create(path, vector(1), overwrite=True)
    retired.rename(path)
    assert History(path).parameters.size == 2
