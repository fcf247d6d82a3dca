"""Verify finds every kind of damage, names what is lost with it, and finds nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from store_everything import Everything
from store_reference import Killed, Recorded, killed_after, refuses

from weightcast.cli.main import main
from weightcast.store import (
    FormatError,
    History,
    HistoryWriter,
    InputNotFoundError,
    ParameterTable,
    ShapeError,
    UsageError,
    compact,
    compare,
    plan_compaction,
    verify,
)
from weightcast.store.rechunking import Options

TABLE = ParameterTable.of(
    [
        ("a.weight", (3, 1), "float32", "weight"),
        ("a.bias", (1,), "float32", "bias"),
        ("b", (5,), "float32", "weight"),
    ]
)
BUFFERS = ParameterTable.of([("mean", (2,), "float32", "buffer")])
STEPS = [3 * row for row in range(10)]
ZEROS = np.zeros((10, 2))
BLOCK, WIDTH = 4, 3  # weights: 3 x 3 chunks


def make_history(path: Path, rows: int = 10) -> Path:
    """A history of 9 weights x 10 steps with everything in it that a history can have."""
    random = np.random.default_rng(1)
    weights = random.normal(size=(10, 9)).astype(np.float32)
    recorded = Recorded(TABLE, STEPS, weights, BUFFERS, random.normal(size=(10, 2)))
    return Everything.of(recorded).write(path, block=BLOCK, width=WIDTH, rows=rows)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_history(tmp_path_factory.mktemp("intact") / "run.zarr")


@pytest.fixture
def history(tmp_path: Path, intact: Path) -> Path:
    return shutil.copytree(intact, tmp_path / "run.zarr")


def chunk_files(path: Path) -> list[str]:
    found = (f for f in path.rglob("*") if f.is_file() and f.name != "zarr.json")
    return sorted(str(f.relative_to(path)) for f in found)


def test_an_intact_history_is_all_right(history: Path) -> None:
    for source in (history, str(history), History(history)):
        found = verify(source)
        assert found.ok
        assert found.damage == []
    assert found.committed == 10
    assert found.chunks == len(chunk_files(history)) == 3 * 3 + 3 * 3 + 3 + 2 + 2
    assert found.bytes == 10 * (2 * 9 * 4 + 2 * 8 + 2 * 8) + 2 * 2 * 8
    assert found.nan_steps == {"weights": 0, "gradients": 1, "buffers": 0}
    assert (found.unchecked, found.leftovers, found.error) == ([], 0, None)


def test_an_empty_history_is_all_right(tmp_path: Path) -> None:
    HistoryWriter.create(tmp_path / "run.zarr", TABLE).close()
    found = verify(tmp_path / "run.zarr")
    assert (found.ok, found.chunks, found.bytes) == (True, 0, 0)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


DAMAGES: list[Callable[[Path], object]] = [flip, truncate, Path.unlink]


def lost_with(chunk: str) -> tuple[list[str], tuple[int, int] | None]:
    """Names and steps in a chunk, one number at a time."""
    array, _, key = chunk.partition("/c/")
    place = [int(i) for i in key.split("/")]
    first = place[-1] * BLOCK
    steps = (STEPS[first], STEPS[min(first + BLOCK, 10) - 1])
    if array.startswith("metrics"):
        return [], None
    if array == "step":
        return [], None  # what it says is not known
    if array == "time":
        return [], (0, 27)
    table = BUFFERS if array == "buffers" else TABLE
    names = [p.name for p in table for i in range(p.offset, p.stop) if i // WIDTH == place[0]]
    return list(dict.fromkeys(names)), steps


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_chunk_is_named_with_what_is_lost(history: Path, damage) -> None:
    for chunk in chunk_files(history):
        kept = (history / chunk).read_bytes()
        damage(history / chunk)
        (found,) = verify(history).damage
        assert f"{found.array}/{found.chunk}" == chunk
        assert ("missing" in found.why) == (damage is Path.unlink)
        names, steps = lost_with(chunk)
        assert (list(found.parameters), found.steps) == (names, steps)
        (history / chunk).write_bytes(kept)
    assert verify(history).ok


def test_it_goes_on_after_damage_and_finds_all(history: Path) -> None:
    chunks = chunk_files(history)
    for i, chunk in enumerate(chunks):
        DAMAGES[i % 3](history / chunk)
    found = verify(history, workers=2)
    assert sorted(f"{d.array}/{d.chunk}" for d in found.damage) == chunks
    assert found.chunks == len(chunks)
    assert {d.steps for d in found.damage} == {None}  # the steps are damaged too


def garbage(path: Path) -> None:
    (path / "gradients/zarr.json").write_text("{")


def gone(path: Path) -> None:
    shutil.rmtree(path / "gradients")


def edit(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | changes))


ARRAYS: dict[str, Callable[[Path], object]] = {
    "garbage": garbage,
    "gone": gone,
    "too short": lambda path: edit(path / "gradients/zarr.json", shape=[9, 9]),
    "too few rows": lambda path: edit(path / "gradients/zarr.json", shape=[8, 10]),
    "dtype": lambda path: edit(path / "gradients/zarr.json", data_type="int32", fill_value=0),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_a_damaged_array_is_named_and_the_rest_is_read(history: Path, case: str) -> None:
    ARRAYS[case](history)
    flip(history / "weights/c/0/0")
    first, second = verify(history).damage
    assert (first.array, first.chunk, first.steps) == ("gradients", "", None)
    assert first.parameters == ("a.weight", "a.bias", "b")
    assert (second.array, second.chunk) == ("weights", "c/0/0")


@pytest.mark.parametrize(("row", "step"), [(4, 9), (9, 0), (0, -1)])
def test_steps_must_increase(history: Path, row: int, step: int) -> None:
    zarr.open_group(history, mode="r+")["step"][row] = step
    (found,) = verify(history).damage
    assert (found.array, found.chunk) == ("step", "")
    assert f"row {row}" in found.why
    assert str(step) in found.why


def test_what_a_killed_append_left_is_no_damage(history: Path, tmp_path: Path) -> None:
    path = make_history(tmp_path / "six.zarr", rows=6)
    other = Everything.of(Recorded(TABLE, STEPS, np.ones((10, 9), np.float32), BUFFERS, ZEROS))
    with killed_after(8), pytest.raises(Killed):
        other.append(path, 6, 10)
    found = verify(path)
    assert found.ok
    assert found.leftovers > 0
    assert found.leftover_bytes > 0
    assert found.committed == 6


def test_columns_of_nothing_but_nan_are_counted(tmp_path: Path) -> None:
    # a run that diverged: its weights are NaN for real
    weights = np.ones((10, 9), np.float32)
    weights[7:] = np.nan
    weights[3, :8] = np.nan
    path = Recorded(TABLE, STEPS, weights).write(tmp_path / "run.zarr", width=WIDTH)
    found = verify(path)
    assert found.ok
    assert found.nan_steps == {"weights": 3}
    flip(path / "weights/c/0/2")
    assert verify(path).nan_steps == {"weights": 1}  # of what can be read


def test_arrays_without_checksums_are_named(history: Path) -> None:
    group = zarr.open_group(history, mode="r+")
    values = group["time"][:]
    group.create_array("time", data=values, overwrite=True)
    assert verify(history).unchecked == ["time"]


def sharded(path: Path, intact: Path) -> Path:
    source = History(intact)
    options = Options(steps_per_chunk=2, parameters_per_chunk=3, shard=2 * 2 * 3 * 4)
    compact(source, path, plan_compaction(source, options=options))
    assert History(path).weights.shards == (6, 2)
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_a_shard_is_found(tmp_path: Path, intact: Path, damage) -> None:
    path = sharded(tmp_path / "shards.zarr", intact)
    assert verify(path).ok
    assert verify(path).unchecked == []
    damage(path / "weights/c/0/1")
    found = verify(path).damage
    assert {(d.array, d.chunk, d.steps) for d in found} == {("weights", "c/0/1", (6, 9))}
    assert {name for d in found for name in d.parameters} <= {"a.weight", "a.bias", "b"}
    if damage is Path.unlink:
        assert [d.parameters for d in found] == [("a.weight", "a.bias", "b")]


def test_progress_ends_with_the_last_chunk(history: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    verify(history, workers=1, progress=lambda *args: seen.append(args))
    total = len(chunk_files(history))
    assert seen[-1] == ("verifying", total, total)


def test_what_is_no_history_is_refused(tmp_path: Path, history: Path) -> None:
    with refuses(InputNotFoundError, tmp_path / "no.zarr"):
        verify(tmp_path / "no.zarr")
    (history / "zarr.json").write_text("{}")
    with refuses(FormatError, history):
        verify(history)
    with refuses(UsageError, "workers", 0):
        verify(history, workers=0)


# ---- compare


def differences(copy: Path, original: Path, **kwargs) -> dict[str, tuple[int, float, bool]]:
    found = compare(History(copy), History(original), **kwargs)
    return {d.array: (d.different, d.largest, d.ok) for d in found if d.different or d.largest}


@pytest.mark.parametrize("memory", [1, 500, 1 << 20])
def test_compare_finds_every_changed_value(tmp_path: Path, history: Path, memory: int) -> None:
    copy = shutil.copytree(history, tmp_path / "copy.zarr")
    assert differences(copy, history, memory=memory) == {}
    group = zarr.open_group(copy, mode="r+")
    group["weights"][8, 9] += np.float32(0.5)
    group["weights"][0, 0] += np.float32(0.25)
    group["gradients"][4, 5] = np.nan
    group["buffers"][1, 2] += 0.25
    group["time"][1] += 2
    group["metrics/val%2Floss/value"][0] = -0.5
    found = differences(copy, history, memory=memory, bound=0.6)
    assert found == {
        "weights": (2, pytest.approx(0.5), True),
        "gradients": (1, np.inf, False),
        "buffers": (1, pytest.approx(0.25), False),
        "time": (1, 2.0, False),
        "metrics/val%2Floss/value": (1, 1.0, False),
    }
    assert not differences(copy, history, bound=0.4)["weights"][2]
    assert not differences(copy, history)["weights"][2]


def test_compare_tells_zeros_and_nans_apart_only_by_bits(tmp_path: Path, history: Path) -> None:
    copy = shutil.copytree(history, tmp_path / "copy.zarr")
    zarr.open_group(copy, mode="r+")["weights"][0, :2] = np.float32([0.0, np.nan])
    other = np.array([0x80000000, 0x7FC00001], np.uint32).view(np.float32)
    zarr.open_group(history, mode="r+")["weights"][0, :2] = other
    assert differences(copy, history)["weights"] == (2, 0.0, False)
    assert differences(copy, history, bound=1e-9)["weights"] == (2, 0.0, True)


def test_compare_finds_what_one_has_and_the_other_has_not(tmp_path: Path, history: Path) -> None:
    other = Recorded(TABLE, [0, 3, 5], np.ones((3, 9), np.float32), BUFFERS, np.ones((3, 2)))
    copy = other.write(tmp_path / "copy.zarr")
    found = differences(copy, history)
    assert found["step"] == (1, np.inf, False)
    for missing in ("gradients", "metrics/val%2Floss"):
        assert not found[missing][2]
        assert not differences(history, copy)[missing][2]
    with HistoryWriter.open(copy) as writer:
        writer.log("val/loss", [3], [0.5])
    assert not differences(copy, history)["metrics/val%2Floss/step"][2]


def test_compare_refuses_another_model(tmp_path: Path, history: Path) -> None:
    table = ParameterTable.of([("x", (9,), "float32", "weight")])
    other = HistoryWriter.create(tmp_path / "other.zarr", table)
    with refuses(ShapeError, "'x'", "'a.weight'"):
        compare(History(other.path), History(history))
    wide = HistoryWriter.create(tmp_path / "wide.zarr", TABLE, buffers=BUFFERS, dtype=np.float64)
    with refuses(ShapeError, "float64", "float32"):
        compare(History(wide.path), History(history))


# ---- the command


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_the_command_says_what_is_damaged(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", history) == 0
    shown = capsys.readouterr().out
    assert "all is well" in shown
    assert "gradients is NaN altogether at 1 steps" in shown
    copy = shutil.copytree(history, tmp_path / "copy.zarr")
    flip(history / "weights/c/1/2")
    for flags in ([], ["--against", copy]):
        assert run("verify", history, *flags) == 1
        shown, lines = capsys.readouterr()
        for text in ("c/1/2", "a.bias to b", "24 to 27", "DAMAGED"):
            assert text in shown
        (line,) = [text for text in lines.splitlines() if text.startswith("weightcast: ")]
        assert "1 chunks" in line
        assert "weights" in line


def test_the_command_prints_json(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "--json", history) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["ok"], facts["committed"], facts["damage"]) == (True, 10, [])
    (history / "buffers/c/0/1").unlink()
    assert run("verify", "--json", history) == 1
    (damage,) = json.loads(capsys.readouterr().out)["damage"]
    assert damage == {
        "array": "buffers",
        "chunk": "c/0/1",
        "why": "missing",
        "parameters": ["mean"],
        "steps": [12, 21],
    }


def test_the_command_compares(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(history, tmp_path / "copy.zarr")
    assert run("verify", copy, "--against", history) == 0
    assert "weights" in capsys.readouterr().out
    zarr.open_group(copy, mode="r+")["buffers"][0, 0] = np.inf
    assert run("verify", copy, "--against", history, "--json") == 1
    shown = capsys.readouterr()
    assert "buffers" in shown.err.splitlines()[-1]
    facts = json.loads(shown.out)
    assert not facts["ok"]
    (wrong,) = [d for d in facts["differences"] if not d["ok"]]
    assert (wrong["array"], wrong["different"], wrong["largest"]) == ("buffers", 1, None)


def test_a_command_that_meets_damage_prints_one_line(tmp_path: Path) -> None:
    """What zarr was still reading beside the damaged chunk must not be complained about."""
    table = ParameterTable.of([("w", (64 * 16384,), "float32", "weight")])
    with HistoryWriter.create(tmp_path / "run.zarr", table, block=1) as writer:
        writer.append([0], [0.0], np.zeros((1, table.size), np.float32))
    chunk = tmp_path / "run.zarr/weights/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    line = "from weightcast.cli.main import main; import sys; sys.exit(main())"
    words = ["export", "run.zarr", "--step", "0", "-o", "w.safetensors"]
    for _ in range(3):  # it is a race
        done = subprocess.run(
            [sys.executable, "-c", line, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("weightcast: ")
        assert done.stderr.count("\n") == 1, done.stderr
