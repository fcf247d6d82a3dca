"""Drawing a dataset again: the same bytes, or an error that says why not, and nothing left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import Recorded, files, refuses, same_bits, vector, wandering

from weightcast.store import (
    Dataset,
    FormatError,
    History,
    HistoryWriter,
    InputNotFoundError,
    OutputExistsError,
    Recipe,
    SamplingError,
    UsageError,
    WeightcastWarning,
    build_dataset,
    compact,
    describe_dataset,
    describe_plan,
    plan_compaction,
    plan_sampling,
    rebuild_dataset,
)

GOLDEN = Path(__file__).parent / "golden"


def grow(path: Path, recorded: Recorded, rows: int, seed: int = 5) -> None:
    """Record further steps."""
    more = wandering(recorded.table.size, rows, seed)
    first = recorded.steps[-1] + 1
    with HistoryWriter.open(path) as writer:
        writer.append(range(first, first + rows), np.zeros(rows), more.weights)


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, list[Recorded]]:
    """Two histories of one model, a and b, and a dataset of both."""
    runs = [wandering(30, 41, seed) for seed in (0, 1)]
    for name, run in zip("ab", runs, strict=True):
        run.write(tmp_path / f"{name}.zarr", width=7)
    histories = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    build_dataset(histories, tmp_path / "data.zarr", 200, validation=0.3, run_shares=(1.0, 3.0))
    return tmp_path, runs


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_it_is_the_same_wherever_it_runs(two: Any, scheduler: str) -> None:
    folder, _ = two
    again = rebuild_dataset(
        folder / "data.zarr", folder / "again.zarr", scheduler=scheduler, workers=2
    )
    assert files(folder / "again.zarr") == files(folder / "data.zarr")
    headers = [json.loads((folder / f"{n}.zarr/zarr.json").read_text()) for n in ("again", "data")]
    assert headers[0] == headers[1]
    assert isinstance(again, Dataset)


def test_histories_that_have_grown_give_the_same(two: Any) -> None:
    folder, runs = two
    for name, run in zip("ab", runs, strict=True):
        grow(folder / f"{name}.zarr", run, 30)
    rebuild_dataset(Dataset(folder / "data.zarr"), folder / "again.zarr")
    assert files(folder / "again.zarr") == files(folder / "data.zarr")
    build_dataset(
        [folder / "a.zarr", folder / "b.zarr"],
        folder / "new.zarr",
        200,
        validation=0.3,
        run_shares=(1.0, 3.0),
    )
    assert files(folder / "new.zarr") != files(folder / "data.zarr")


def test_histories_that_were_compacted_without_loss_give_the_same(two: Any) -> None:
    folder, _ = two
    for name in "ab":
        compact(History(folder / f"{name}.zarr"), folder / f"{name}-small.zarr")
    small = [folder / "a-small.zarr", folder / "b-small.zarr"]
    again = rebuild_dataset(folder / "data.zarr", folder / "again.zarr", histories=small)
    assert files(folder / "again.zarr") == files(folder / "data.zarr")
    assert [origin.path for origin in again.origins] == [str(path) for path in small]


def test_a_history_that_has_moved(two: Any) -> None:
    folder, _ = two
    (folder / "b.zarr").rename(folder / "moved.zarr")
    with refuses(InputNotFoundError, folder / "b.zarr", folder / "data.zarr", "--history"):
        rebuild_dataset(folder / "data.zarr", folder / "again.zarr")
    places = [History(folder / "a.zarr"), folder / "moved.zarr"]
    rebuild_dataset(folder / "data.zarr", folder / "again.zarr", histories=places)
    assert files(folder / "again.zarr") == files(folder / "data.zarr")


def damage(folder: Path, **changes: Any) -> None:
    """Change what the header says of the recipe, or of its first history."""
    document = json.loads((folder / "zarr.json").read_text())
    header = document["attributes"]["weightcast"]
    for name, value in changes.items():
        target = header["recipe"] if name in header["recipe"] else header["origins"][0]
        target[name] = value
    (folder / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize("path", ["a" * 5000, "a/" * 3000, "/" + "a" * 256])
def test_a_path_that_cannot_be_one_is_damage(two: Any, path: str) -> None:
    folder, _ = two
    damage(folder / "data.zarr", path=path)
    with refuses(FormatError, folder / "data.zarr", "too long", path[:40], "--history"):
        rebuild_dataset(folder / "data.zarr", folder / "again.zarr")
    histories = [folder / "a.zarr", folder / "b.zarr"]
    rebuild_dataset(folder / "data.zarr", folder / "again.zarr", histories=histories)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("context", None, "context must be a list: got None"),
        ("edges", 5, "edges must"),
        ("shares", [None], "shares must be numbers: got [None]"),
        ("run_shares", True, "run_shares"),
        ("include", 7, "include must be globs"),
        ("horizon", "2", "got horizon '2'"),
        ("seed", None, "a seed must be"),
        ("samples", "many", "samples must be a whole number"),
    ],
)
def test_a_damaged_recipe_is_told_by_its_rule(two: Any, name: str, value: Any, rule: str) -> None:
    folder, _ = two
    damage(folder / "data.zarr", **{name: value})
    with refuses(FormatError, folder / "data.zarr", "damaged, its recipe", rule):
        rebuild_dataset(folder / "data.zarr", folder / "again.zarr")
    assert not (folder / "again.zarr").exists()


@pytest.mark.parametrize(
    ("recipe", "rule"),
    [(None, "JSON object: got None"), ([], "JSON object"), ({}, "got no context, edges")],
)
def test_a_recipe_that_is_none_is_told(two: Any, recipe: Any, rule: str) -> None:
    folder, _ = two
    header = folder / "data.zarr/zarr.json"
    document = json.loads(header.read_text())
    document["attributes"]["weightcast"]["recipe"] = recipe
    header.write_text(json.dumps(document))
    with refuses(FormatError, folder / "data.zarr", "its recipe", rule):
        rebuild_dataset(folder / "data.zarr", folder / "again.zarr")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_history_for_each(two: Any, count: int) -> None:
    folder, _ = two
    places = [folder / "a.zarr"] * count
    with refuses(UsageError, "2", f"got {count}", folder / "a.zarr", folder / "b.zarr"):
        rebuild_dataset(folder / "data.zarr", folder / "again.zarr", histories=places)
    assert not (folder / "again.zarr").exists()


def other_steps(path: Path) -> None:
    recorded = wandering(30, 41, seed=1)
    Recorded(recorded.table, [*range(40), 50], recorded.weights).write(path)


def other_model(path: Path) -> None:
    recorded = wandering(31, 41, seed=1)
    recorded.write(path)


def cut_short(path: Path) -> None:
    wandering(30, 40, seed=1).write(path)


@pytest.mark.parametrize("make", [other_steps, other_model, cut_short])
def test_another_history_is_refused_by_name(two: Any, make: Any) -> None:
    folder, _ = two
    shutil.rmtree(folder / "b.zarr")
    make(folder / "b.zarr")
    before = files(folder)
    with refuses(FormatError, f"{folder / 'b.zarr'} is not the history", folder / "data.zarr"):
        rebuild_dataset(folder / "data.zarr", folder / "again.zarr")
    assert files(folder) == before


def test_histories_in_another_order_are_noticed(two: Any) -> None:
    """Of one model and the same steps: only the values tell them apart."""
    folder, _ = two
    before = left_in(folder)
    places = [folder / "b.zarr", folder / "a.zarr"]
    with refuses(FormatError, "in their order", "of 200 samples"):
        rebuild_dataset(folder / "data.zarr", folder / "again.zarr", histories=places)
    assert left_in(folder) == before


def test_values_within_an_error_are_not_the_same(tmp_path: Path) -> None:
    """The message says which arrays differ, and in how many samples."""
    wandering(30, 41).write(tmp_path / "run.zarr")
    dataset = build_dataset(tmp_path / "run.zarr", tmp_path / "data.zarr", 100)
    history, bounded = History(tmp_path / "run.zarr"), tmp_path / "bounded.zarr"
    compact(history, bounded, plan_compaction(history, preset="bounded", error=1e-6))
    now = build_dataset(bounded, tmp_path / "new.zarr", 100)
    differing = int((np.asarray(now.X) != np.asarray(dataset.X)).any(axis=1).sum())
    assert differing
    assert same_bits(np.asarray(now.step), np.asarray(dataset.step))
    before = left_in(tmp_path)
    with refuses(FormatError, dataset.path, "of 100 samples", f"X in {differing}", "compacting"):
        rebuild_dataset(dataset, tmp_path / "again.zarr", histories=bounded)
    assert left_in(tmp_path) == before


@pytest.mark.parametrize("array", ["X", "y", "stratum", "run", "validation"])
def test_a_bit_that_has_changed_in_the_dataset_is_noticed(two: Any, array: str) -> None:
    folder, _ = two
    (chunk,) = (f for f in (folder / "data.zarr" / array / "c").rglob("*") if f.is_file())
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    before = left_in(folder)
    with refuses(FormatError, f"of 200 samples, {array} in 1 differ"):
        rebuild_dataset(folder / "data.zarr", folder / "again.zarr")
    assert left_in(folder) == before


def test_a_failed_one_keeps_what_stood_there(two: Any) -> None:
    folder, _ = two
    shutil.copytree(folder / "data.zarr", folder / "again.zarr")
    with refuses(OutputExistsError, folder / "again.zarr", "--overwrite"):
        rebuild_dataset(folder / "data.zarr", folder / "again.zarr")
    swapped = [folder / "b.zarr", folder / "a.zarr"]
    before = files(folder)
    with refuses(FormatError, "differ"):
        rebuild_dataset(
            folder / "data.zarr", folder / "again.zarr", histories=swapped, overwrite=True
        )
    assert files(folder) == before
    rebuild_dataset(folder / "data.zarr", folder / "again.zarr", overwrite=True)
    assert files(folder) == before


@pytest.mark.parametrize("name", ["data.zarr", "a.zarr"])
def test_it_never_replaces_what_it_is_made_from(two: Any, name: str) -> None:
    folder, _ = two
    before = files(folder)
    with refuses(OutputExistsError, folder / name):
        rebuild_dataset(folder / "data.zarr", folder / name, overwrite=True)
    assert files(folder) == before


def test_format_1_is_told_how_to_be_built_again(tmp_path: Path) -> None:
    with refuses(FormatError, "format 1", "weightcast dataset show", GOLDEN / "dataset-v1.zarr"):
        rebuild_dataset(GOLDEN / "dataset-v1.zarr", tmp_path / "again.zarr")
    command = describe_dataset(Dataset(GOLDEN / "dataset-v1.zarr")).command
    assert command[:4] == ("weightcast", "dataset", "build", "history-v1.zarr")
    assert command[6:] == ("--samples", "8", "--context", "1,0.5,0", "--seed", "4")


def test_different_models_and_fewer_samples(tmp_path: Path) -> None:
    """What the first build had to be allowed needs no further permission."""
    wandering(30, 41).write(tmp_path / "a.zarr")
    Recorded(vector(20), list(range(21)), wandering(20, 21).weights).write(tmp_path / "b.zarr")
    with pytest.warns(WeightcastWarning, match=r"b\.zarr has too few"):
        build_dataset(
            [tmp_path / "a.zarr", tmp_path / "b.zarr"],
            tmp_path / "data.zarr",
            400,
            different_models=True,
            shortfall="fewer",
        )
    with pytest.warns(WeightcastWarning, match=r"b\.zarr has too few"):
        rebuild_dataset(tmp_path / "data.zarr", tmp_path / "again.zarr")
    assert files(tmp_path / "again.zarr") == files(tmp_path / "data.zarr")


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(21, 40),
    more=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
    width=st.integers(1, 9),
)
def test_any_history_that_grows(
    tmp_path_factory: pytest.TempPathFactory, rows: int, more: int, seed: int, width: int
) -> None:
    folder = tmp_path_factory.mktemp("grows")
    recorded = wandering(9, rows, seed % 1000)
    recorded.write(folder / "run.zarr", width=width)
    try:
        build_dataset(folder / "run.zarr", folder / "data.zarr", 20, seed=seed)
    except SamplingError:
        return
    grow(folder / "run.zarr", recorded, more)
    rebuild_dataset(folder / "data.zarr", folder / "again.zarr", scheduler="synchronous")
    assert files(folder / "again.zarr") == files(folder / "data.zarr")


# ---- plans of the first rows, and what is said of plans and datasets


def test_a_plan_of_the_first_rows(tmp_path: Path) -> None:
    recorded = wandering(30, 41)
    path = recorded.write(tmp_path / "run.zarr")
    planned = plan_sampling(History(path), Recipe(50))
    grow(path, recorded, 20)
    assert plan_sampling(History(path), Recipe(50)).sources != planned.sources
    assert plan_sampling(History(path), Recipe(50), recorded=[41]).sources == planned.sources
    with refuses(UsageError, path, "62", "61"):
        plan_sampling(History(path), Recipe(50), recorded=[62])
    with refuses(UsageError, "recorded", "2"):
        plan_sampling(History(path), Recipe(50), recorded=[1, 2])


def test_a_plan_counts_the_chunks_it_will_read(tmp_path: Path) -> None:
    recorded = wandering(40, 41)
    path = recorded.write(tmp_path / "run.zarr", width=10, block=4)
    whole = describe_plan(plan_sampling(History(path), Recipe(100)))
    assert whole.read == sum(f.stat().st_size for f in (path / "weights/c").rglob("*/*"))
    assert whole.decoded == 40 * 41 * 4
    early = describe_plan(plan_sampling(History(path), Recipe(50, t_max=8)))
    blocks = [path / f"weights/c/{band}/{time}" for band in range(4) for time in range(5)]
    assert early.read == sum(f.stat().st_size for f in blocks)
    (path / "weights/c/1/0").unlink()
    with refuses(FormatError, path / "weights/c/1/0", "missing"):
        describe_plan(plan_sampling(History(path), Recipe(50)))


def test_a_plan_tells_what_the_dataset_will_hold(two: Any) -> None:
    folder, _ = two
    histories = [History(folder / "a.zarr"), History(folder / "b.zarr")]
    recipe = Dataset(folder / "data.zarr").recipe
    plan = describe_plan(plan_sampling(histories, recipe))
    info = describe_dataset(Dataset(folder / "data.zarr"))
    assert plan.samples == info.samples == 200
    assert plan.size == 200 * (4 * 4 + 4 + 8 + 8 + 1 + 4 + 4 + 1 + 8 + 1)
    assert plan.size == sum(
        f.stat().st_size for f in (folder / "data.zarr").glob("*/c/**/*") if f.is_file()
    )
    for expected, found in zip(plan.runs, info.runs, strict=True):
        assert (expected.draws, expected.recorded) == (found.draws, found.recorded)
        assert [s.samples for s in expected.strata] == [s.samples for s in found.strata]
        assert [s.candidates for s in expected.strata] == [s.candidates for s in found.strata]
        assert expected.t[0] <= found.t[0] <= found.t[1] <= expected.t[1]
    assert [sum(s.samples for s in run.strata) for run in info.runs] == [50, 150]
    assert [(run.draws, run.recorded) for run in plan.runs] == [(2, 41), (6, 41)]
    assert (plan.runs[0].weights, plan.runs[0].t) == (30, (3, 20))


def test_ties_are_told_where_keys_decide(tmp_path: Path) -> None:
    """Half of the weights never move: 16 of 20, so that both cuts are among them."""
    walk = wandering(20, 41)
    still = np.where(np.arange(20) < 16, walk.weights[0], walk.weights)
    Recorded(walk.table, walk.steps, still).write(tmp_path / "run.zarr")
    dataset = build_dataset(tmp_path / "run.zarr", tmp_path / "data.zarr", 20)
    (run,) = describe_dataset(dataset).runs
    assert [s.ties for s in run.strata] == [16, 16, 0]
    assert [s.tied_at for s in run.strata] == [0.0, 0.0, None]
    assert [s.candidates for s in run.strata] == [10, 5, 5]
    moved = [dataset.variation[dataset.stratum == s] for s in range(3)]
    assert [s.variation for s in run.strata] == [(m.min(), m.max()) for m in moved]
    assert moved[0].max() > 0


def test_ties_all_above_a_cut_are_not_decided_by_keys(tmp_path: Path) -> None:
    """The ten most changed weights moved alike; the cut comes just after them."""
    change = np.float32([5] * 10 + list(range(10, 0, -1)))
    change[10:] /= 8
    weights = np.where(np.arange(41)[:, None] > 0, change, np.float32(0))
    Recorded(vector(20), list(range(41)), weights).write(tmp_path / "run.zarr")
    dataset = build_dataset(tmp_path / "run.zarr", tmp_path / "data.zarr", 20)
    (run,) = describe_dataset(dataset).runs
    assert [s.ties for s in run.strata] == [10, 1, 0]
    assert [s.tied_at for s in run.strata] == [None, None, None]
