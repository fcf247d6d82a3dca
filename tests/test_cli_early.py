"""The command ``weightcast early``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from store_reference import Recorded, vector, wandering
from support import Pipeline

from weightcast.cli.main import main
from weightcast.store import History, HistoryWriter
from weightcast.store.early import measure_early


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_it_prints_what_numpy_computes(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, picture = tmp_path / "early.csv", tmp_path / "early.png"
    words = ("early", pipeline.history, "--points", 6, "-o", table, "--figure", picture)
    assert run(*words) == 0
    shown = capsys.readouterr().out
    history = History(pipeline.history)
    start, now = (history.snapshot(step).astype(np.float64) for step in (0, 300))
    (last,) = [line for line in shown.splitlines() if line.startswith("  300 ")]
    _, _, magnitude, distance, to_end, _, to_last, signs, moved = last.split()
    assert magnitude == f"{np.abs(now).mean():.4g}"
    assert distance == f"{np.linalg.norm(now - start):.4g}"
    assert (to_end, to_last) == ("0", "1.0000")
    assert signs == f"{(now * start < 0).mean():.2%}"
    assert moved == f"{(np.abs(now - start) > np.abs(start) / 2).mean():.2%}"
    for text in ("1,210 weights", "sub-phases", f"table in {table}", f"picture in {picture}"):
        assert text in shown
    assert "note:" not in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    before = picture.read_bytes()
    assert run("early", pipeline.history, "--figure", picture) == 2
    assert run("early", pipeline.history, "-o", table) == 2
    assert picture.read_bytes() == before
    assert run(*words, "--overwrite", "--until", 100) == 0
    assert picture.read_bytes() != before


def test_json_is_the_library_s_report(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--steps 100,3,50 --until 200 --moved 0.1 --include 0.* --exclude *.bias"
    assert run("early", pipeline.history, "--json", *options.split()) == 0
    report = measure_early(
        pipeline.history,
        steps=[3, 50, 100],
        until=200,
        moved=0.1,
        include=["0.*"],
        exclude=["*.bias"],
    )
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(json.dumps(report.to_json()))
    assert [row["step"] for row in document["rows"]] == [0, 3, 50, 100]


def test_metrics_and_sub_phases_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = list(range(0, 130, 10))
    curve = [0, 9, 6, 3, 1, 1, 2, 4, 5, 5, 5, 5, 5]
    path = wandering(4, len(steps)).weights
    recorded = Recorded(vector(4), [7 + s for s in steps], path).write(tmp_path / "run.zarr")
    with HistoryWriter.open(recorded) as writer:
        writer.log("g-norm", [7 + s for s in steps], curve)
        writer.log("loss", [7 + s for s in steps], curve)
    assert run("early", recorded, "--gradient", "g-norm") == 0
    shown = capsys.readouterr().out
    assert "gradient: metric g-norm" in shown
    assert "loss: metric loss" in shown
    assert "note: step 0 is not recorded: the start is step 7" in shown
    said = (
        "gradient, smoothed over three rows: minimum at step 47, the highest after that at step 87"
    )
    assert f"{said}, settled from step 87 on\n" in shown


def test_weights_without_a_gradient_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, gradients = tmp_path / "run.zarr", np.ones((4, 3), np.float32)
    gradients[0] = gradients[2:, 1:] = np.nan
    with HistoryWriter.create(path, vector(3), extras=("gradients",)) as writer:
        weights = wandering(3, 4).weights
        writer.append(range(4), np.zeros(4), weights, extras={"gradients": gradients})
    assert run("early", path) == 0
    assert "note: up to 2 of the weights had no gradient" in capsys.readouterr().out


def test_the_command_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wandering(3, 6).write(tmp_path / "run.zarr")
    text = (Path(__file__).parent.parent / "docs/early.md").read_text()
    (line,) = re.findall(r"^    weightcast (.*)$", text, re.MULTILINE)
    assert run(*line.split()) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"run.zarr", "early.png", "early.csv"}


def test_a_diverged_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk = wandering(3, 6)
    walk.weights[4:] = np.nan
    path = walk.write(tmp_path / "run.zarr")
    assert run("early", path, "--figure", tmp_path / "early.png") == 0
    shown = capsys.readouterr().out
    assert "note: from step 4 on weights are not finite" in shown
    assert "nan" not in shown
    assert "sub-phases: none found in the step size" in shown
    assert run("early", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"][-1]["magnitude"] is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--steps", "999"], 1, "nearest are 300"),
        (["--steps", "1.5"], 2, "--steps must be whole numbers: got 1.5"),
        (["--steps", "a"], 2, "must be numbers"),
        (["--steps", "inf"], 2, "must be whole numbers: got inf"),
        (["--until", "1"], 1, "3 recorded steps at least"),
        (["--moved", "nan"], 2, "moved must be"),
        (["--gradient", "norm"], 2, "no metric 'norm'"),
        (["--include", "q*"], 2, "select none"),
        (["--points", "2"], 2, "points"),
        (["--figure", "early.gif"], 2, ".png"),
    ],
)
def test_bad_input_is_one_line(
    pipeline: Pipeline,
    words: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("early", pipeline.history, *words) == code
    out, err = capsys.readouterr()
    assert not out
    assert said in err
    assert err.count("\n") == 1
