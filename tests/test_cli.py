"""The command line: what it prints, and what bad input gets."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Pipeline

from weightcast.cli.main import main
from weightcast.predictor import load
from weightcast.store import Dataset, History, HistoryWriter, ParameterTable, build_dataset
from weightcast.store.ring import MAGIC, ring_path


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_info_shows_what_is_there(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", pipeline.history) == 0
    shown = capsys.readouterr().out
    for text in ("0.weight", "[16, 64]", "301 recorded, from 0 to 300", "ratio", "every:1"):
        assert text in shown
    assert run("info", "--json", pipeline.history) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["weights"] == 64 * 16 + 16 + 160 + 10
    assert facts["raw_bytes"] == facts["weights"] * 301 * 4
    files = [f for f in pipeline.history.rglob("*") if f.is_file()]
    assert facts["stored_bytes"] == sum(f.stat().st_size for f in files)
    assert run("info", "--json", pipeline.dataset) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 4000


def test_evaluate_prints_the_errors_it_measures(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--points", 1, "--by", "t", "--json")
    assert run("evaluate", *words, pipeline.forecaster, pipeline.other) == 0
    (first, _) = json.loads(capsys.readouterr().out)
    history, forecaster = History(pipeline.other), load(pipeline.forecaster)
    t = int(first["group"].removeprefix("t = "))
    past = np.stack([history.snapshot(round(f * t)) for f in (1, 0.7, 0.4, 0)], axis=1)
    truth = history.snapshot(2 * t)
    error = np.abs(forecaster.predict(past) - truth).mean()
    assert first["forecaster"] == pytest.approx(error, rel=1e-4)
    assert first["last_value"] == pytest.approx(np.abs(past[:, 0] - truth).mean(), rel=1e-4)


def test_jump_writes_a_checkpoint_that_loads(pipeline: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    where = ("--history", pipeline.history, "--checkpoint", pipeline.checkpoint, "-o", out)
    assert run("jump", *where, "--step", 100, "--forecaster", pipeline.forecaster) == 0
    before = torch.load(pipeline.checkpoint, weights_only=True)
    after = torch.load(out, weights_only=True)
    assert after["step"] == before["step"]
    assert not torch.equal(after["model"]["0.weight"], before["model"]["0.weight"])
    moments = [c["optimizer"]["state"][0]["exp_avg"] for c in (before, after)]
    assert torch.equal(*moments)


def test_fit_is_reproducible_from_its_card(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again.safetensors"
    monkeypatch.chdir(pipeline.folder)  # the card has the dataset's path as it was given
    assert run("fit", pipeline.dataset.name, "-o", again, "--set", "steps=500") == 0
    assert again.read_bytes() == pipeline.forecaster.read_bytes()


def test_dataset_options_reach_the_recipe(pipeline: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "d.zarr"
    options = "--samples 50 --context 1,0.5 --horizon 1.5 --edges 0,1 --shares 1 --seed 3"
    words = ("dataset", "build", pipeline.history, "-o", out, *shlex.split(options))
    assert run(*words, "--t-max", 100) == 0
    dataset = Dataset(out)
    assert dataset.X.shape == (50, 2)
    assert dataset.step.max() <= 100
    assert dataset.recipe.seed == 3


def make_short(folder: Path, steps: int, value: float = 1.0) -> Path:
    """A history of one weight, for bad input."""
    path = folder / f"short-{steps}.zarr"
    table = ParameterTable.of([("w", (1,), "float32", "weight")])
    with HistoryWriter.create(path, table) as writer:
        writer.append(np.arange(steps), np.zeros(steps), np.full((steps, 1), value, np.float32))
    return path


def torn_ring(folder: Path) -> Path:
    """A history whose recording left a ring file that is no longer whole."""
    path = make_short(folder, 5).rename(folder / "torn.zarr")
    ring_path(path).write_bytes(MAGIC + bytes(5000))
    return path


def damaged(folder: Path, how: str) -> Path:
    """A history whose first chunk has a wrong byte, or is not there."""
    path = make_short(folder, 31).rename(folder / f"{how}.zarr")
    chunk = path / "weights/c/0/0"
    data = chunk.read_bytes()
    chunk.unlink()
    if how == "corrupt":
        chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return path


def newer_format(folder: Path, history: Path) -> Path:
    """A copy of a history that says it is of a later format."""
    path = folder / "newer.zarr"
    shutil.copytree(history, path)
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["weightcast"]["format"] = 99
    (path / "zarr.json").write_text(json.dumps(document))
    return path


def orphan(folder: Path, dataset: Path) -> Path:
    """A copy of a dataset whose history is not where it was."""
    path = folder / "orphan.zarr"
    shutil.copytree(dataset, path)
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["weightcast"]["origins"][0]["path"] = str(folder / "nowhere.zarr")
    (path / "zarr.json").write_text(json.dumps(document))
    return path


def dataset_like(folder: Path, name: str, **recipe: Any) -> Path:
    """A small dataset."""
    table = ParameterTable.of([("w", (40,), "float32", "weight")])
    with HistoryWriter.create(folder / f"{name}-run.zarr", table) as writer:
        walk = np.random.default_rng(0).normal(size=(41, 40)).cumsum(axis=0).astype(np.float32)
        writer.append(np.arange(41), np.zeros(41), walk)
    path = folder / f"{name}.zarr"
    build_dataset(folder / f"{name}-run.zarr", path, 40, scheduler="synchronous", **recipe)
    return path


def spoilt_dataset(folder: Path) -> Path:
    """A dataset in which a later value is NaN."""
    path = dataset_like(folder, "spoilt")
    values = np.array(Dataset(path).y)
    values[5] = np.nan
    values.tofile(path / "y/c/0")
    return path


def later_forecaster(folder: Path, forecaster: Path) -> Path:
    """A forecaster file that says it is of a later format."""
    data = forecaster.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    document = json.loads(header["__metadata__"]["weightcast"]) | {"format": 99}
    header["__metadata__"]["weightcast"] = json.dumps(document)
    text = json.dumps(header).encode()
    path = folder / "later.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return path


def huge_forecaster(folder: Path) -> Path:
    """A forecaster file whose header claims terabytes."""
    path = folder / "huge.safetensors"
    path.write_bytes((1 << 43).to_bytes(8, "little") + b"{}")
    return path


BAD_INPUT = {
    "output exists": (
        "record -o {history} -- {script}",
        2,
        ("exists", "--overwrite", "--resume"),
    ),
    "dataset exists": ("dataset build {history} -o {dataset}", 2, ("exists", "--overwrite")),
    "forecaster exists": ("fit {dataset} -o {forecaster}", 2, ("exists", "--overwrite")),
    "foreign folder": (
        "record -o {folder} --overwrite -- {script}",
        2,
        ("not a weightcast history",),
    ),
    "no history": ("info {new}", 2, ("does not exist",)),
    "no history to recover": ("recover {new}", 2, ("no history", "check the path")),
    "not a history to recover": ("recover {folder}", 1, ("not a Zarr v3 group",)),
    "damaged ring": ("recover {torn}", 1, ("torn.zarr.ring is damaged",)),
    "not a history": ("info {folder}", 1, ("not a Zarr v3 group",)),
    "a file, not a history": ("info {script}", 1, ("not a Zarr",)),
    "dataset, not a history": (
        "dataset build {dataset} -o {new}",
        1,
        ("not a weightcast history",),
    ),
    "history, not a dataset": ("fit {history} -o {new}", 1, ("not a weightcast dataset",)),
    "newer format": ("info {newer}", 1, ("format 99", "upgrade")),
    "missing script": ("record -o {new} -- nowhere.py", 2, ("nowhere.py",)),
    "no script": ("record -o {new}", 2, ("train.py",)),
    "interpreter given": ("record -o {new} -- python train.py", 2, ("without the interpreter",)),
    "bad schedule": ("record -o {new} --schedule weekly -- {script}", 2, ("every:N", "'weekly'")),
    "step not recorded": (
        "jump --history {history} --step 9999 --forecaster {forecaster} --checkpoint {checkpoint} "
        "-o {new}",
        1,
        ("step 9999 is not recorded", "300"),
    ),
    "step too early": (
        "jump --history {history} --step 1 --forecaster {forecaster} --checkpoint {checkpoint} "
        "-o {new}",
        2,
        ("too early",),
    ),
    "no checkpoint": (
        "jump --history {history} --step 100 --forecaster {forecaster} --checkpoint no.pt -o {new}",
        2,
        ("no.pt",),
    ),
    "other model": (
        "jump --history {short} --step 10 --forecaster {forecaster} --checkpoint {checkpoint} "
        "-o {new}",
        1,
        ("'w'", "same parameters"),
    ),
    "dataset without an output": ("dataset build {history}", 2, ("--output", "--dry-run")),
    "dataset among histories": (
        "dataset build {history} {dataset} -o {new}",
        1,
        ("dataset.zarr is not a weightcast history",),
    ),
    "mixed models": (
        "dataset build {history} {short} -o {new}",
        1,
        ("one model", "run.zarr", "short-30.zarr", "--different-models"),
    ),
    "a history twice": ("dataset build {history} {history} -o {new}", 2, ("given twice",)),
    "no t in the range": (
        "dataset build {history} -o {new} --t-min 151",
        1,
        ("run.zarr", "t_min 151"),
    ),
    "t range upside down": (
        "dataset build {history} -o {new} --t-min 9 --t-max 8",
        2,
        ("t_min must not be above t_max", "(9, 8)"),
    ),
    "no such parameters": ("dataset build {history} -o {new} --include x", 2, ("include ['x']",)),
    "shares of more runs": (
        "dataset build {history} {other} -o {new} --run-shares 1,2,3",
        2,
        ("run_shares", "3 for 2"),
    ),
    "a run to hold out of one": (
        "dataset build {history} -o {new} --validation 0.5 --validation-by run",
        2,
        ("two histories",),
    ),
    "all held out": ("dataset build {history} -o {new} --validation 1", 2, ("below 1",)),
    "unknown scheduler": ("dataset build {history} -o {new} --scheduler dask", 2, ("'dask'",)),
    "workers of a cluster": (
        "dataset build {history} -o {new} --scheduler tcp://localhost:1 --workers 2",
        2,
        ("its own workers",),
    ),
    "scheduler out of reach": (
        "dataset build {history} -o {new} --samples 9 --scheduler tcp://127.0.0.1:9",
        1,
        ("tcp://127.0.0.1:9", "dask scheduler"),
    ),
    "corrupted chunk": ("dataset build {corrupt} -o {new} --samples 9", 1, ("weights/c/0/0",)),
    "missing chunk": ("dataset build {missing} -o {new} --samples 9", 1, ("weights/c/0/0",)),
    "missing chunk, planned": (
        "dataset build {missing} --samples 9 --dry-run",
        1,
        ("weights/c/0/0", "missing"),
    ),
    "show a history": ("dataset show {history}", 1, ("not a weightcast dataset",)),
    "rebuild a history": ("dataset rebuild {history} -o {new}", 1, ("not a weightcast dataset",)),
    "rebuild of nothing": ("dataset rebuild {new} -o {new}2", 2, ("does not exist",)),
    "rebuild onto itself": (
        "dataset rebuild {dataset} -o {dataset} --overwrite --history {history}",
        2,
        ("is an input",),
    ),
    "rebuild of a history that is gone": (
        "dataset rebuild {orphan} -o {new}",
        2,
        ("nowhere.zarr", "is not there", "--history"),
    ),
    "rebuild of another history": (
        "dataset rebuild {dataset} -o {new} --history {short}",
        1,
        ("short-30.zarr is not the history", "--history"),
    ),
    "rebuild of the wrong run": (
        "dataset rebuild {dataset} -o {new} --history {other}",
        1,
        ("was not kept", "4000 samples", "X in"),
    ),
    "rebuild of too many": (
        "dataset rebuild {dataset} -o {new} --history {history} --history {other}",
        2,
        ("each of the 1", "got 2"),
    ),
    "too short": ("dataset build {tiny} -o {new}", 1, ("too short", "record more steps")),
    "too many samples": ("dataset build {short} -o {new} --samples 99", 1, ("at most",)),
    "NaN weights": ("dataset build {nan} -o {new} --samples 2", 1, ("w[0]", "--t-max")),
    "NaN evaluated": ("evaluate {forecaster} {nan}", 1, ("NaN", "finite")),
    "not a forecaster": ("evaluate {script} {history}", 1, ("safetensors",)),
    "truncated forecaster": ("evaluate {cut} {history}", 1, ("truncated",)),
    "no forecaster": ("evaluate no.safetensors {history}", 2, ("weightcast fit",)),
    "no forecaster of that name": ("evaluate introspection-mnits {history}", 2, ("-mnist'",)),
    "newer forecaster": ("evaluate {later} {history}", 1, ("format 99", "upgrade")),
    "forecaster that claims terabytes": ("evaluate {huge} {history}", 1, ("huge.safetensors",)),
    "NaN among the samples, fitted": (
        "fit {spoilt} -o {new}.safetensors --hold-out 0.5",
        1,
        ("y has NaN", "row 5"),
    ),
    "NaN among the samples, evaluated": ("evaluate {forecaster} {spoilt}", 1, ("y, row 5",)),
    "NaN among the samples, compared": ("compare {spoilt}", 1, ("y, row 5", "spoilt.zarr")),
    "one feature too few": (
        "evaluate {forecaster} {narrow}",
        1,
        ("narrow.zarr", "another context", "--context 1,0.7,0.4,0"),
    ),
    "samples of another horizon": (
        "evaluate {forecaster} {nearer}",
        1,
        ("2t", "1.5t", "--horizon"),
    ),
    "history at another horizon": (
        "evaluate {forecaster} {history} --horizon +50",
        2,
        ("2t", "t+50", "'ahead'"),
    ),
    "no horizon": ("evaluate {forecaster} {history} --horizon soon", 2, ("'soon'", "+500")),
    "no such grouping": ("evaluate {forecaster} {history} --by age", 2, ("'age'", "kind")),
    "drawn as something": ("evaluate {forecaster} {history} --plot {new}", 2, (".png", ".pdf")),
    "unknown model": (
        "fit {dataset} -o {new}.safetensors --model introspecton",
        2,
        ("'introspecton'", "'introspection'"),
    ),
    "unknown option of a model": (
        "fit {dataset} -o {new}.safetensors --set hiden=3",
        2,
        ("'hiden'", "'hidden'"),
    ),
    "option that breaks its rule": (
        "fit {dataset} -o {new}.safetensors --set hidden=0",
        2,
        ("hidden", "got 0"),
    ),
    "option without a value": (
        "fit {dataset} -o {new}.safetensors --set hidden",
        2,
        ("hidden=40",),
    ),
    "forecaster named wrongly": ("fit {dataset} -o {new}", 2, (".safetensors",)),
    "regressor named wrongly": (
        "fit {dataset} -o {new}.safetensors --model ridge",
        2,
        (".skops",),
    ),
    "columns that are not there": (
        "fit {dataset} -o {new}.safetensors --context 1,0.3",
        2,
        ("0.3", "--context"),
    ),
    "a model that the columns do not allow": (
        "fit {dataset} -o {new}.safetensors --model line --context 1,0.4,ahead",
        2,
        ("ahead",),
    ),
    "swapped": ("evaluate {dataset} {forecaster}", 2, ("is a folder", "forecaster first")),
    "grouped by an unknown name": ("evaluate {forecaster} {dataset} --by kidn", 2, ("'kind'",)),
    "a plus sign forgotten": ("evaluate line {history} --horizon 500", 2, ("+500",)),
    "early stopping without": (
        "fit {dataset} -o {new}.safetensors --hold-out 1",
        2,
        ("--hold-out",),
    ),
    "compared on two recipes": ("compare {dataset} {nearer}", 1, ("dataset.zarr", "nearer.zarr")),
    "compared by an unknown name": ("compare {dataset} --model rigde", 2, ("'rigde'", "'ridge'")),
    "compared with a bad option": ("compare {dataset} --set ridge", 2, ("NAME.KEY=VALUE",)),
    "compared with an unknown option": ("compare {dataset} --set wnn.x=1", 2, ("'x'", "wnn")),
    "a history compared": ("compare {history}", 1, ("not a weightcast dataset",)),
    "bad numbers": ("dataset build {history} -o {new} --edges 0,x", 2, ("'0,x'",)),
    "bad shares": ("dataset build {history} -o {new} --shares 1,1,1", 2, ("sum to 1",)),
    "bad seed": ("dataset build {history} -o {new} --seed -1", 2, ("seed",)),
    "export of no step": (
        "export {history} --step 9999 -o {new}.pt",
        1,
        ("step 9999 is not recorded", "300"),
    ),
    "export of no history": ("export {folder} --step 1 -o {new}.pt", 1, ("not a Zarr v3 group",)),
    "export as something": ("export {history} --step 100 -o {new}", 2, (".safetensors", ".pt")),
    "export over a file": (
        "export {history} --step 100 -o {forecaster}",
        2,
        ("exists", "--overwrite"),
    ),
    "export of a bad step": ("export {history} --step latest -o {new}.pt", 2, ("'latest'", "last")),
    "import of nothing": ("import {folder}/nowhere -o {new}", 2, ("no checkpoints", "nowhere")),
    "import without steps": ("import {folder} -o {new}", 2, ("in.pt", "--step-pattern")),
    "import of a script": (
        "import {script} -o {new} --step-from metadata",
        1,
        ("train.py", "not a checkpoint"),
    ),
    "import over a history": (
        "import {checkpoint} -o {history} --step-from metadata",
        2,
        ("exists", "--overwrite"),
    ),
    "import by a bad pattern": (
        "import {checkpoint} -o {new} --step-pattern in",
        2,
        ("step pattern", "one group"),
    ),
    "import without an error bound": (
        "import {checkpoint} -o {new} --step-from metadata --preset bounded",
        2,
        ("bounded", "error"),
    ),
    "unknown option": ("info {history} --nonsense", 2, ("--nonsense",)),
    "unknown command": ("forecast", 2, ("forecast",)),
    "missing option": ("fit {dataset}", 2, ("--output",)),
    "nothing to verify": ("verify {new}", 2, ("does not exist",)),
    "verify a dataset": ("verify {dataset}", 1, ("not a weightcast history",)),
    "verify against another model": ("verify {short} --against {history}", 1, ("same parameters",)),
    "compact to nowhere": ("compact {history}", 2, ("-o", "--in-place")),
    "compact to two places": ("compact {history} -o {new} --in-place", 2, ("-o", "--in-place")),
    "compact onto itself": ("compact {history} -o {history} --overwrite", 2, ("is an input",)),
    "compact into itself": ("compact {history} -o {history}/new", 2, ("lie in each other",)),
    "compact to what exists": ("compact {history} -o {short}", 2, ("exists", "--overwrite")),
    "thin in place": ("compact {history} --in-place --every 2", 2, ("--every", "-o")),
    "thin and delete": (
        "compact {history} -o {new} --delete-original --to-step 9",
        2,
        ("--to-step", "keep the original"),
    ),
    "overwrite in place": ("compact {history} --in-place --overwrite", 2, ("--overwrite", "-o")),
    "bound of a lossless preset": ("compact {history} -o {new} --error 1", 2, ("lossless",)),
    "no bound to be found": (
        "compact {short} -o {new} --preset bounded",
        2,
        ("did not change", "--error"),
    ),
    "too little memory": (
        "compact {history} -o {new} --parameters-per-chunk 2000 --steps-per-chunk 400 --memory 1",
        2,
        ("--memory", "--steps-per-chunk"),
    ),
    "compact no history": ("compact {dataset} --in-place", 1, ("not a weightcast history",)),
    "variation of nothing": ("variation {new}", 2, ("does not exist",)),
    "variation of a dataset": ("variation {dataset}", 1, ("not a weightcast history",)),
    "variation of one step": ("variation {history} --from-step 300", 1, ("1 of the 301 steps",)),
    "variation of no parameter": ("variation {history} --include x", 2, ("select none", "info")),
    "variation over a history": (
        "variation {short} -o {history} --overwrite",
        2,
        ("not a weightcast variation",),
    ),
    "variation as something": ("variation {history} -o {new}", 2, (".zarr or .parquet",)),
    "variation drawn as something": ("variation {history} --plot {new}", 2, (".png", ".pdf")),
    "variation by bad quantiles": ("variation {history} --quantiles 50", 2, ("0 to 1", "50")),
    "variation that is still": ("variation {history} --still -1", 2, ("still", "-1")),
    "variation by a bad scheduler": ("variation {history} --scheduler magic", 2, ("'magic'",)),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_line(
    case: str,
    pipeline: Pipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    command, code, texts = BAD_INPUT[case]
    (tmp_path / "cut.safetensors").write_bytes(pipeline.forecaster.read_bytes()[:-100])
    (tmp_path / "nan").mkdir()
    places = {
        "short": make_short(tmp_path, 30),
        "tiny": make_short(tmp_path, 4),
        "nan": make_short(tmp_path / "nan", 30, float("nan")),
        "newer": newer_format(tmp_path, pipeline.history),
        "cut": tmp_path / "cut.safetensors",
        "torn": torn_ring(tmp_path),
        "corrupt": damaged(tmp_path, "corrupt"),
        "missing": damaged(tmp_path, "missing"),
        "orphan": orphan(tmp_path, pipeline.dataset),
        "spoilt": spoilt_dataset(tmp_path),
        "narrow": dataset_like(tmp_path, "narrow", context=(1.0, 0.7, 0.4)),
        "nearer": dataset_like(tmp_path, "nearer", horizon=1.5),
        "later": later_forecaster(tmp_path, pipeline.forecaster),
        "huge": huge_forecaster(tmp_path),
        "new": tmp_path / "new",
    }
    names = ("folder", "script", "history", "other", "dataset", "forecaster", "checkpoint")
    places |= {name: getattr(pipeline, name) for name in names}
    before = fingerprint(pipeline.folder)
    assert run(*command.format(**places).split()) == code
    shown = capsys.readouterr()
    lines = shown.err.strip().splitlines()
    assert lines[-1].startswith("weightcast: ")
    assert [line for line in lines if "weightcast:" in line] == [lines[-1]]
    for text in texts:
        assert text in lines[-1]
    assert "Traceback" not in shown.err + shown.out
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("new") and p != places["newer"]]
    assert fingerprint(pipeline.folder) == before


def fingerprint(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to show that nothing was changed."""
    return {str(f): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_installed_command_reports_through_the_exit_code(tmp_path: Path) -> None:
    """The real process: exit code and one line on stderr, nothing on stdout."""
    command = [str(Path(sys.executable).parent / "weightcast"), "info", "nowhere.zarr"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
