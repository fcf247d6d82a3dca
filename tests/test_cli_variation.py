"""The command ``weightcast variation``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from pyarrow import parquet
from store_reference import Recorded
from support import Pipeline

from weightcast.cli.main import main
from weightcast.store import History, ParameterTable, measure_variation


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_it_prints_what_numpy_computes(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("variation", pipeline.history, "--top", 3) == 0
    shown = capsys.readouterr().out
    history = History(pipeline.history)
    change = np.abs(history.snapshot(300) - history.snapshot(0))
    for q in (0.25, 0.5, 0.9, 0.99):
        assert f" {np.quantile(change, q, method='inverted_cdf'):.3g} " in shown
    still = f"{(change <= change.max() * 0.01).mean():.1%}"
    (row,) = [line for line in shown.split("deviation:")[0].splitlines() if "whole model" in line]
    assert row.split()[2] == "1,210"
    assert row.split()[-2:] == [still, f"{(change == 0).mean():.1%}"]
    for place in np.argsort(-change, kind="stable")[:3]:
        assert f"{history.parameters.locate(place)} " in shown
        assert f"{change[place]:.4g}" in shown
    for name in ("whole model", "every weight", "every bias", "0.weight", "2.bias", "301 steps"):
        assert name in shown
    assert "not finite" not in shown


def test_json_is_the_library_s_report(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--by deviation --top 20 --quantiles 0.5,1 --include 0.* --exclude *.bias"
    steps = "--from-step 100 --to-step 200 --still 0.1 --scheduler synchronous"
    assert run("variation", pipeline.history, "--json", *options.split(), *steps.split()) == 0
    report = measure_variation(
        pipeline.history,
        by="deviation",
        top=20,
        quantiles=(0.5, 1),
        include="0.*",
        exclude="*.bias",
        from_step=100,
        to_step=200,
        still=0.1,
    )
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(json.dumps(report.to_json()))
    assert [g["name"] for g in document["groups"]] == ["whole model", "weight", "0.weight"]
    assert (document["first_step"], document["last_step"], document["steps"]) == (100, 200, 101)
    assert len(document["top"]) == 20


def test_outputs_and_picture_are_written_once(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, picture = tmp_path / "moved.parquet", tmp_path / "moved.svg"
    words = ("variation", pipeline.history, "--plot", picture, "-o")
    assert run(*words, table) == 0
    shown = capsys.readouterr().out
    assert f"both measures of every weight in {table}\n" in shown
    assert f"picture in {picture}\n" in shown
    assert parquet.read_metadata(table).num_rows == 1210
    assert b"<svg" in picture.read_bytes()
    before = picture.read_bytes()
    assert run(*words, tmp_path / "moved.zarr") == 2  # the picture exists
    assert not (tmp_path / "moved.zarr").exists()
    assert picture.read_bytes() == before
    assert run(*words, tmp_path / "moved.zarr", "--overwrite", "--seed", 5) == 0
    assert zarr.open_group(tmp_path / "moved.zarr", mode="r")["deviation"].shape == (1210,)
    assert picture.read_bytes() != before


def test_weights_that_are_not_finite_are_counted_not_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ParameterTable.of([("w", (3,), "float32", "weight"), ("b", (2,), "float32", "bias")])
    weights = np.float32([[0, 0, 0, 0, 0], [1, np.nan, 2, np.inf, np.nan], [4, 5, 6, 7, 8]])
    path = Recorded(table, [0, 1, 2], weights).write(tmp_path / "run.zarr")
    assert run("variation", path, "--plot", tmp_path / "moved.png") == 0
    shown = capsys.readouterr().out
    assert "note: whole model: 3 not finite" in shown
    assert "note: w: 1 not finite" in shown
    assert "note: every bias: 2 not finite" in shown
    assert "w[2]" in shown
    assert "w[1]" not in shown
    assert run("variation", path, "--json") == 0
    groups = json.loads(capsys.readouterr().out)["groups"]  # strict JSON has no NaN
    assert groups[0]["not_finite"] == 3
    assert groups[0]["change"]["quantiles"][-1] == 6
    assert [g["change"] for g in groups if g["name"] in ("bias", "b")] == [None, None]


def test_a_change_too_large_for_the_dtype_is_not_called_a_weight_that_is_nan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ParameterTable.of([("w", (2,), "float32", "weight")])
    weights = np.float32([[-3e38, 0], [3e38, 1]])
    path = Recorded(table, [0, 1], weights).write(tmp_path / "run.zarr")
    assert run("variation", path) == 0
    shown = capsys.readouterr().out
    assert (
        "note: w: 1 not finite, and left out: the weight itself at one of the steps, or its change "
        "or deviation, is NaN or infinite" in shown
    )


def test_names_reach_the_terminal_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ParameterTable.of([("w\x1b[31m", (2,), "float32", "weight")])
    weights = np.float32([[0, 0], [np.nan, 1]])
    path = Recorded(table, [0, 1], weights).write(tmp_path / "run\x1b[2J.zarr")
    assert run("variation", path, "-o", tmp_path / "moved\x9b.zarr") == 0
    assert run("info", path) == 0
    assert run("info", f"{path}\x1b]0;title\x07") == 2
    captured = capsys.readouterr()
    shown = captured.out + captured.err.splitlines()[-1]
    assert "w\\x1b[31m[1]" in shown
    assert "note: w\\x1b[31m: 1 not finite" in shown
    assert "moved\\x9b.zarr" in shown
    assert "run\\x1b[2J.zarr\\x1b]0;title\\x07 does not exist" in shown
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []


def test_top_none_prints_no_list(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("variation", pipeline.history, "--top", 0) == 0
    assert "most changed" not in capsys.readouterr().out
