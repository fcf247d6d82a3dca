"""The commands on datasets: what they print, and that their options reach the library."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from store_reference import Recorded, files, vector, wandering
from support import Pipeline

from weightcast.cli.main import main
from weightcast.predictor.files import load_with_card
from weightcast.store import (
    Dataset,
    History,
    Recipe,
    admissible,
    build_dataset,
    describe_plan,
    plan_sampling,
)

GOLDEN = Path(__file__).parent / "golden/dataset-v1.zarr"
Captured = pytest.CaptureFixture[str]


def run(*words: object) -> int:
    return main([str(word) for word in words])


def typed(line: str, *more: object) -> int:
    """Run ``weightcast dataset LINE``."""
    return run("dataset", *shlex.split(line), *more)


def squeezed(text: str) -> str:
    return re.sub(r" +", " ", text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a.zarr, 70 % of whose weights never move, and b.zarr, of one model."""
    walk = wandering(40, 61)
    still = np.where(np.arange(40) < 28, walk.weights[0], walk.weights)
    Recorded(walk.table, walk.steps, still).write(tmp_path / "a.zarr", width=16)
    wandering(40, 61, seed=1).write(tmp_path / "b.zarr", width=16)
    monkeypatch.chdir(tmp_path)
    return tmp_path


EVERY_OPTION = (
    "--samples 90 --context 1,0.5,0.25 --horizon 1.5 --edges 0,0.4,1 --shares 0.3,0.7 --t-min 4 "
    "--t-max 30 --t-distribution log --tolerance 0.05 --draws 5 --include w* --include '*x' "
    "--exclude nothing --exclude 'b[0]*' --different-models --run-shares 1,2 --validation 0.25 "
    "--validation-by run --shortfall fewer --seed 18446744073709551615"
)


def test_every_option_reaches_the_recipe(folder: Path) -> None:
    assert typed(f"build a.zarr b.zarr -o d.zarr {EVERY_OPTION}") == 0
    recipe = Dataset("d.zarr").recipe
    assert recipe.to_json() == {
        "samples": 90,
        "context": [1.0, 0.5, 0.25],
        "horizon": 1.5,
        "edges": [0.0, 0.4, 1.0],
        "shares": [0.3, 0.7],
        "seed": 2**64 - 1,
        "tolerance": 0.05,
        "t_min": 4,
        "t_max": 30,
        "t_distribution": "log",
        "draws": 5,
        "include": ["w*", "*x"],
        "exclude": ["nothing", "b[0]*"],
        "different_models": True,
        "run_shares": [1.0, 2.0],
        "validation": 0.25,
        "validation_by": "run",
        "shortfall": "fewer",
    }


RICH = (
    "--samples 60 --horizon 1.5,2,+8 "
    "--context 1,0.7,t-3,mean:8/2,slope:8/2,spread:6/1,scale,step,ahead"
)


def test_windows_facts_and_horizons_are_told_in_words(folder: Path, capsys: Captured) -> None:
    assert typed(f"build a.zarr {RICH} --dry-run") == 0
    planned = squeezed(capsys.readouterr().out)
    assert typed(f"build a.zarr -o d.zarr {RICH}") == 0
    assert "60 samples of 9 inputs" in squeezed(capsys.readouterr().out)
    assert typed("show d.zarr") == 0
    shown = squeezed(capsys.readouterr().out)
    for text in (
        "inputs w(t), w(0.7t), w(t-3); mean, slope of the 5 snapshots from t-8 to t; spread of the "
        "7 snapshots from t-6 to t; the tensor's scale; t; steps to the target",
        "target w(1.5t) or w(2t) or w(t+8)",
    ):
        assert text in planned
        assert text in shown
    dataset = Dataset("d.zarr")
    assert dataset.recipe.horizon == (1.5, 2.0, "+8")
    assert set(dataset.horizon.tolist()) == {0, 1, 2}
    assert typed("build a.zarr --context last:9/1 --horizon +5 --samples 40 --dry-run") == 0
    shown = squeezed(capsys.readouterr().out)
    assert "inputs w(t), w(t-1), ..., w(t-8) (9 values)\ntarget w(t+5)\n" in shown


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        ("--horizon 1", 2, "horizon must be greater than 1"),
        ("--horizon two", 2, "got 'two'"),
        ("--horizon 2,2", 2, "that differ"),
        ("--context w", 2, "mean:, slope: or spread:STEPS/STRIDE"),
        ("--context 1,slope:80/8", 1, "every 8 steps from t-80 to t"),
        ("--horizon +70", 1, "and t+70"),
    ],
)
def test_contexts_and_horizons_that_cannot_be_are_told_in_one_line(
    folder: Path, more: str, code: int, text: str, capsys: Captured
) -> None:
    assert typed(f"build a.zarr -o d.zarr --samples 40 {more}") == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not Path("d.zarr").exists()


@pytest.mark.parametrize("options", ["--samples 60", EVERY_OPTION, RICH])
def test_the_command_that_show_prints_builds_it_again(
    folder: Path, options: str, capsys: Captured
) -> None:
    assert typed(f"build a.zarr b.zarr -o 'my data.zarr' {options}") == 0
    capsys.readouterr()
    assert run("dataset", "show", "my data.zarr") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("weightcast ")]
    assert [words[:3] for words in commands] == [
        ["weightcast", "dataset", "build"],
        ["weightcast", "dataset", "rebuild"],
    ]
    before = files(folder / "my data.zarr")
    assert run(*commands[0][1:], "--overwrite") == 0
    assert files(folder / "my data.zarr") == before
    assert run(*commands[1][1:]) == 0
    assert files(folder / "OUT") == before


@pytest.mark.parametrize("scheduler", ["threads", "processes", "synchronous"])
def test_the_scheduler_does_not_change_a_byte(folder: Path, scheduler: str) -> None:
    build_dataset(["a.zarr", "b.zarr"], "expected.zarr", 60)
    words = "build a.zarr b.zarr -o d.zarr --samples 60"
    assert typed(words, "--scheduler", scheduler, "--workers", 2) == 0
    assert files(folder / "d.zarr") == files(folder / "expected.zarr")


def test_build_prints_each_run_and_stratum(folder: Path, capsys: Captured) -> None:
    words = "build a.zarr b.zarr -o d.zarr --samples 80 --validation 0.2"
    assert typed(words) == 0
    shown = squeezed(capsys.readouterr().out)
    dataset = Dataset("d.zarr")
    for which in range(2):
        for stratum, (edges, count, candidates) in enumerate(
            [("0 to 50", 20, 20), ("50 to 75", 10, 10), ("75 to 100", 10, 10)]
        ):
            rows = (dataset.run == which) & (dataset.stratum == stratum)
            moved = dataset.variation[rows]
            assert rows.sum() == count
            line = f" {which} {stratum}: {edges} % {count} {candidates} "
            assert f"{line}{moved.min():.3g} to {moved.max():.3g}" in shown
    assert shown.count("28 tie at 0: chosen at random by key") == 2  # both cuts of a.zarr
    assert "wanted" not in shown
    held = int(dataset.validation.sum())
    assert f"{80 - held} rows for training, {held} held out for validation" in shown
    span = f"t from {dataset.step.min()} to {dataset.step.max()}, in d.zarr"
    assert f"80 samples of 4 inputs and one later value, {span}" in shown


def test_one_run_without_ties_gets_no_column_for_them(folder: Path, capsys: Captured) -> None:
    assert typed("build b.zarr -o d.zarr --samples 40") == 0
    shown = squeezed(capsys.readouterr().out)
    assert " stratum samples candidates variation \n" in shown
    assert "40 rows for training; none held out for validation" in shown


@pytest.mark.filterwarnings("always::weightcast.store.WeightcastWarning")
def test_fewer_samples_are_told(folder: Path, capsys: Captured) -> None:
    words = "build b.zarr -o d.zarr --samples 4000 --shortfall fewer"
    most = 40 * len(plan_t("b.zarr"))
    assert typed(words, "--dry-run") == 0
    assert typed(words) == 0
    captured = capsys.readouterr()
    assert f"weightcast: warning: {folder / 'b.zarr'} has too few candidates" in captured.err
    shown = squeezed(captured.out)
    assert shown.count("wanted") == 2
    assert shown.count(f" {most // 2:,} 2,000 {most // 2:,}") == 2
    assert len(Dataset("d.zarr")) == most


def plan_t(path: str) -> np.ndarray:
    """Steps t that can be drawn."""
    return admissible(History(path).steps, Recipe(1)).t


def test_json_after_a_build_is_that_of_show(folder: Path, capsys: Captured) -> None:
    words = "build a.zarr b.zarr -o d.zarr --samples 80 --validation 0.2 --json"
    assert typed(words) == 0
    built = json.loads(capsys.readouterr().out)
    assert typed("show d.zarr --json") == 0
    assert json.loads(capsys.readouterr().out) == built
    dataset = Dataset("d.zarr")
    assert built["samples"] == 80
    assert built["validation"] == dataset.validation.sum() == 80 - built["training"]
    assert built["recipe"] == dataset.recipe.to_json()
    assert [r["path"] for r in built["runs"]] == [str(folder / f"{name}.zarr") for name in "ab"]
    for which, of_run in enumerate(built["runs"]):
        rows = dataset.run == which
        assert of_run["t"] == [dataset.step[rows].min(), dataset.step[rows].max()]
        assert of_run["steps"] == len(np.unique(dataset.step[rows]))
        assert of_run["weights"] == len(np.unique(dataset.parameter[rows]))
        assert of_run["validation"] == dataset.validation[rows].sum()
        assert of_run["recorded"] == 61
        counts = [s["samples"] for s in of_run["strata"]]
        assert counts == np.bincount(dataset.stratum[rows]).tolist()


# ---- a plan, before anything runs


def test_a_dry_run_needs_no_output_and_writes_nothing(folder: Path, capsys: Captured) -> None:
    before = sorted(folder.rglob("*"))
    words = "build a.zarr b.zarr --samples 80 --dry-run"
    assert typed(words, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert typed(words) == 0
    shown = squeezed(capsys.readouterr().out)
    assert typed(words, "-o", "d.zarr", "--scheduler", "tcp://nowhere:1") == 0
    assert sorted(folder.rglob("*")) == before
    assert typed(words.replace("--dry-run", "-o d.zarr")) == 0
    recipe = Dataset("d.zarr").recipe
    plan = describe_plan(plan_sampling([History("a.zarr"), History("b.zarr")], recipe))
    names = ("samples", "tasks", "read", "decoded", "scratch", "size", "worker")
    assert {n: facts[n] for n in names} == {n: getattr(plan, n) for n in names}
    assert facts["samples"] == len(Dataset("d.zarr"))
    stored = [f.stat().st_size for n in "ab" for f in (folder / f"{n}.zarr/weights/c").rglob("*/*")]
    assert facts["read"] == sum(stored)
    for of_run in facts["runs"]:
        assert [s["samples"] for s in of_run["strata"]] == [20, 10, 10]
        assert (of_run["weights"], of_run["draws"]) == (40, 1)
    for text in ("a.zarr 61 40 1 3 to 30 28", "b.zarr 61 40 1 3 to 30 28", "80 samples"):
        assert text in shown
    assert not facts["read_estimated"]
    assert "to read 0.0 MB" in shown
    for text in (f"tasks {facts['tasks']}", "to read 0.0 MB", "scratch", "memory", "passes decode"):
        assert text in shown


def test_a_dry_run_says_where_a_store_lists_nothing(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightcast.store.estimating._stored_bytes", lambda *_: (None, False))
    words = "build a.zarr --samples 40 --dry-run"
    assert typed(words) == 0
    assert "to read unknown (its store does not list files)" in squeezed(capsys.readouterr().out)
    assert typed(words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["read"] is None


def test_of_very_many_files_some_are_looked_at(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightcast.store.estimating.MOST_FILES", 20)
    monkeypatch.setattr("weightcast.store.estimating.SOME_FILES", 8)
    words = "build a.zarr --samples 40 --dry-run"
    assert typed(words, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    sizes = [f.stat().st_size for f in (folder / "a.zarr/weights/c").rglob("*/*")]
    assert facts["read_estimated"]
    assert len(sizes) * min(sizes) < facts["read"] < len(sizes) * max(sizes)
    assert facts["read"] == pytest.approx(sum(sizes), rel=0.3)
    assert typed(words) == 0
    assert "to read about 0.0 MB" in squeezed(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        ("--samples 5000", 1, "at most 1120"),
        ("--t-min 31", 1, "t_min 31"),
        ("-o a.zarr", 2, "a.zarr"),
        ("--scheduler magic", 2, "'magic'"),
        ("--include nothing", 2, "'nothing'"),
    ],
)
def test_a_dry_run_refuses_what_a_build_would(
    folder: Path, more: str, code: int, text: str, capsys: Captured
) -> None:
    for words in (f"{more} --dry-run", f"-o d.zarr {more}"):
        assert typed(f"build a.zarr --samples 40 {words}") == code
        assert text in capsys.readouterr().err
    assert not Path("d.zarr").exists()


# ---- explaining, and building again


def test_show_explains_in_words(folder: Path, capsys: Captured) -> None:
    assert typed(f"build a.zarr b.zarr -o d.zarr {EVERY_OPTION}") == 0
    capsys.readouterr()
    assert run("dataset", "show", "d.zarr") == 0
    shown = squeezed(capsys.readouterr().out)
    for text in (
        "inputs w(t), w(0.5t), w(0.25t)",
        "target w(1.5t)",
        "32 steps of each octave alike, t-min 4, t-max 30",
        "within 0.05 t",
        "30 %, 70 % of the samples",
        "include w* *x, exclude nothing b[0]*",
        "runs samples as 1 : 2",
        "seed 18446744073709551615",
        "90 in d.zarr",
        f"0: {folder / 'a.zarr'} 61 ",
        f"1: {folder / 'b.zarr'} 61 ",
        "40 to 100 %",
        "dataset format 3",
    ):
        assert text in shown
    held = int(np.flatnonzero(np.bincount(Dataset("d.zarr").run[Dataset("d.zarr").validation]))[0])
    assert f"held out for validation: those of run {held}" in shown


def test_show_of_format_1_says_what_is_known(capsys: Captured) -> None:
    assert run("dataset", "show", GOLDEN) == 0
    shown = squeezed(capsys.readouterr().out)
    for text in ("0: history-v1.zarr ? 8 ? 2 to 4 2", "0: 0 to 50 % 4 ? 1 to 1.25", "format 1"):
        assert text in shown
    assert "dataset build history-v1.zarr" in shown
    assert "rebuild" not in shown
    assert run("info", GOLDEN, "--json") == 0
    assert json.loads(capsys.readouterr().out)["strata"] == [4, 2, 2]


@pytest.mark.filterwarnings("always::weightcast.store.WeightcastWarning")
def test_info_counts_the_samples_there_are(folder: Path, capsys: Captured) -> None:
    words = "build a.zarr b.zarr -o d.zarr --samples 4000 --shortfall fewer"
    assert typed(words, "--validation", 0.3) == 0
    capsys.readouterr()
    assert run("info", "d.zarr", "--json") == 0
    facts, dataset = json.loads(capsys.readouterr().out), Dataset("d.zarr")
    assert facts["samples"] == len(dataset) == sum(facts["strata"]) < 4000
    assert facts["strata"] == np.bincount(dataset.stratum).tolist()
    assert facts["held out"] == dataset.validation.sum() == len(dataset) - facts["training"]
    assert facts["source"] == f"{folder / 'a.zarr'}, {folder / 'b.zarr'}"
    assert run("info", "d.zarr") == 0
    shown = capsys.readouterr().out
    assert "weightcast dataset show d.zarr" in shown
    assert "different_models  False\n" in shown  # a column as wide as its longest name
    assert f"samples           {len(dataset)}\n" in shown


def test_rebuild_from_where_the_histories_are_now(folder: Path, capsys: Captured) -> None:
    assert typed("build a.zarr b.zarr -o d.zarr --samples 80") == 0
    (folder / "b.zarr").rename(folder / "c.zarr")
    assert typed("rebuild d.zarr -o e.zarr") == 2
    assert "--history" in capsys.readouterr().err
    assert not (folder / "e.zarr").exists()
    words = "rebuild d.zarr -o e.zarr --history a.zarr --history c.zarr --workers 1"
    assert typed(words) == 0
    assert "80 samples, bit by bit those of d.zarr, in e.zarr" in capsys.readouterr().out
    assert files(folder / "e.zarr") == files(folder / "d.zarr")
    assert typed(words, "--overwrite", "--json") == 0
    rebuilt = json.loads(capsys.readouterr().out)
    assert typed("show e.zarr --json") == 0
    assert json.loads(capsys.readouterr().out) == rebuilt
    assert [r["path"] for r in rebuilt["runs"]] == [str(folder / f"{name}.zarr") for name in "ac"]


def test_a_corrupted_chunk_is_named_and_nothing_is_left(folder: Path, capsys: Captured) -> None:
    chunk = folder / "b.zarr/weights/c/1/3"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\0")
    before = sorted(p.name for p in folder.iterdir())
    assert typed("build a.zarr b.zarr -o d.zarr --samples 80") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("weightcast: ")
    assert "b.zarr/weights/c/1/3" in last
    assert sorted(p.name for p in folder.iterdir()) == before


# ---- fitting


def fit(*more: object) -> int:
    return run("fit", "d.zarr", "-o", "f.safetensors", "--model", "last-value", *more)


@pytest.mark.parametrize("unit", ["weight", "run"])
def test_fit_uses_what_the_dataset_holds_out(folder: Path, unit: str, capsys: Captured) -> None:
    words = "build a.zarr b.zarr -o d.zarr --samples 80 --validation 0.3 --validation-by"
    assert typed(words, unit) == 0
    capsys.readouterr()
    assert fit() == 0
    shown = capsys.readouterr().out
    held = int(Dataset("d.zarr").validation.sum())
    assert f"{held} held-out samples" in shown
    assert f"held out: the {unit}s that the dataset holds out for validation" in shown
    card = load_with_card("f.safetensors")[1]
    assert card["split"] == {"by": "dataset", "share": 0.3, "seed": 0}
    assert card["errors"][-1]["count"] == held


def test_fit_holds_out_otherwise_only_when_told(folder: Path, capsys: Captured) -> None:
    words = "build b.zarr -o d.zarr --samples 80 --validation 0.3"
    assert typed(words) == 0
    capsys.readouterr()
    assert fit("--hold-out", 0.5, "--seed", 3) == 0
    shown = capsys.readouterr().out
    assert "held out: 0.5 of the weights, by --hold-out; those that the dataset itself" in shown
    assert f"{len(Dataset('d.zarr').split(0.5, 3)[1])} held-out samples" in shown


def test_fit_without_anything_held_out(folder: Path, capsys: Captured) -> None:
    assert typed("build b.zarr -o d.zarr --samples 80") == 0
    capsys.readouterr()
    assert fit() == 0
    assert "held out: 0.1 of the weights, by --hold-out\n" in capsys.readouterr().out
    assert load_with_card("f.safetensors")[1]["split"]["share"] == 0.1


def test_fit_with_nothing_to_hold_out(folder: Path, capsys: Captured) -> None:
    one = wandering(1, 61)
    Recorded(vector(1), one.steps, one.weights).write(folder / "one.zarr")
    for more in ("", "--validation 0.2"):
        words = "build one.zarr -o d.zarr --samples 4 --overwrite"
        assert typed(words, *more.split()) == 0
        capsys.readouterr()
        assert fit() == 2
        assert "fitting and validation need a sample each" in capsys.readouterr().err
    assert not (folder / "f.safetensors").exists()


def test_a_dataset_of_the_pipeline_is_rebuilt(pipeline: Pipeline, tmp_path: Path) -> None:
    words = ("dataset", "rebuild", pipeline.dataset, "-o", tmp_path / "d.zarr")
    assert run(*words, "--history", pipeline.history) == 0
    assert files(tmp_path / "d.zarr") == files(pipeline.dataset)


def test_evaluate_looks_at_the_rows_that_were_held_out(folder: Path, capsys: Captured) -> None:
    """Of those that the forecaster was fitted on, an error says little."""
    assert typed("build a.zarr b.zarr -o d.zarr --samples 90 --validation 0.3") == 0
    assert run("fit", "d.zarr", "-o", "f.safetensors", "--model", "last-value") == 0
    capsys.readouterr()
    counts = []
    for options in ([], ["--all-samples"]):
        assert run("evaluate", "f.safetensors", "d.zarr", *options) == 0
        shown = capsys.readouterr().out
        assert ("held out for validation" in shown) == (not options)
        assert run("evaluate", "f.safetensors", "d.zarr", "--json", *options) == 0
        counts.append(json.loads(capsys.readouterr().out)[-1]["count"])
    assert counts == [len(Dataset("d.zarr").validation_rows), 90]
