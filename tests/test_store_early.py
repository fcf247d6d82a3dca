"""The early phase: against plain NumPy on the whole array, whatever the chunks are; sub-phases."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import Recorded, refuses, vector, wandering

from weightcast.store import (
    HistoryWriter,
    OutputExistsError,
    ParameterTable,
    SamplingError,
    StepNotRecordedError,
    UsageError,
    early_figure,
    early_sums,
)
from weightcast.store.early import measure_early, save_table
from weightcast.store.early_report import COLUMNS, EarlyReport
from weightcast.store.subphases import SubPhases, find_sub_phases


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else math.nan


def reference(
    weights: np.ndarray, steps: list[int], row: int, before: int | None
) -> dict[str, Any]:
    """What is known at a row of [T, P] weights, all of them in memory."""
    w = weights.astype(np.float64)
    now, start, end = w[row], w[0], w[-1]
    found: dict[str, Any] = {
        "step": steps[row],
        "magnitude": np.mean(np.abs(now)),
        "from_start": np.linalg.norm(now - start),
        "to_end": np.linalg.norm(now - end),
        "cosine_start": cosine(now, start),
        "cosine_end": cosine(now, end),
        "sign_changes": np.mean([a * b < 0 for a, b in zip(now, start, strict=True)]),
        "moved": np.mean(np.abs(now - start) > 0.5 * np.abs(start)),
        "not_finite": int((~np.isfinite(now)).sum()),
        "step_size": math.nan,
    }
    if before is not None:
        ways = [np.abs(w[r] - w[r - 1]).mean() for r in range(before + 1, row + 1)]
        found["step_size"] = sum(ways) / (steps[row] - steps[before])
    return found


def agrees(report: EarlyReport, weights: np.ndarray, steps: list[int]) -> None:
    before = None
    for shown in report.rows:
        row = steps.index(shown.step)
        for name, value in reference(weights, steps, row, before).items():
            got = getattr(shown, name)
            assert (got is None) == (not np.isfinite(value)), (name, got, value)
            if got is not None:
                assert got == pytest.approx(float(value), rel=1e-9, abs=1e-7), name
        before = row


@settings(max_examples=15)
@given(st.data())
def test_it_is_what_numpy_says_whatever_the_chunks(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    size, rows = data.draw(st.integers(1, 40)), data.draw(st.integers(3, 12))
    gaps = data.draw(st.lists(st.integers(1, 50), min_size=rows - 1, max_size=rows - 1))
    steps = np.cumsum([data.draw(st.sampled_from([0, 3])), *gaps]).tolist()
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    walk = wandering(size, rows, data.draw(st.integers(0, 1000)), dtype)
    walk.weights[0, data.draw(st.integers(0, size - 1))] = 0  # has no sign
    chosen = data.draw(st.lists(st.sampled_from(steps[1:]), max_size=4))
    table = ParameterTable.of(
        [("a", (size // 2,), "float32", "weight"), ("b", (size - size // 2,), "float32", "bias")]
    )
    which = data.draw(st.sampled_from([(), ("b",)]))
    folder, reports = tmp_path_factory.mktemp("early"), []
    with mock.patch.object(early_sums, "TILE", 8):
        for width, block in data.draw(st.permutations([(8, 2), (16, 5), (6, 3), (4096, 64)]))[:2]:
            path = folder / f"{width}.zarr"
            Recorded(table, steps, walk.weights).write(path, width=width, block=block)
            reports.append(measure_early(path, steps=chosen, points=5, include=which))
    mine = walk.weights[:, size // 2 :] if which else walk.weights
    agrees(reports[0], mine, steps)
    assert reports[0].weights == mine.shape[1]
    assert (reports[0].start, reports[0].end) == (steps[0], steps[-1])
    if chosen:
        assert [row.step for row in reports[0].rows] == sorted({steps[0], *chosen})
    same = [dataclasses.replace(report, source="") for report in reports]
    assert same[0] == same[1]  # to the last bit


def test_steps_are_spread_in_the_logarithm(tmp_path: Path) -> None:
    path = wandering(2, 1001).write(tmp_path / "run.zarr")
    report = measure_early(path, points=4)
    assert [row.step for row in report.rows] == [0, 1, 32, 1000]
    report = measure_early(path, points=40, until=100)
    shown = [row.step for row in report.rows]
    assert shown[:8] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert 25 < len(shown) <= 40
    assert shown[-1] == 100
    assert report.end == 1000  # distances are to the end of the run, not to what is shown


def test_moved_is_relative_to_each_weight_s_own_start(tmp_path: Path) -> None:
    weights = np.float32([[1, -2, 0, 0], [1.2, -2.2, 0, 1e-9], [-1, -4.1, 0, -1]])
    path = Recorded(vector(4), [0, 1, 2], weights).write(tmp_path / "run.zarr")
    shares = [[row.moved for row in measure_early(path, moved=x).rows] for x in (0, 0.15, 1)]
    assert shares == [[0, 0.75, 0.75], [0, 0.5, 0.75], [0, 0.25, 0.75]]
    assert [row.sign_changes for row in measure_early(path).rows] == [0, 0, 0.25]


def logged(path: Path, gradients: bool = False) -> Path:
    """Five rows, every 10 steps, with metrics logged every 5; gradients of -r at row r."""
    walk = wandering(3, 5)
    extras = {"extras": ("gradients",)} if gradients else {}
    with HistoryWriter.create(path, vector(3), **extras) as writer:
        for row in range(5):
            rows = np.full((1, 3), -row if row else np.nan, np.float32)
            writer.append(
                [10 * row],
                [0.0],
                walk.weights[row : row + 1],
                **({"extras": {"gradients": rows}} if gradients else {}),
            )
        for name, sign in (("val/Loss", 1), ("my-loss", -1), ("acc", 2), ("train/Grad-Norm", 3)):
            steps = list(range(0, 40, 5))
            writer.log(name, steps, [math.nan if s == 15 else float(sign * s) for s in steps])
    return path


def column(report: EarlyReport, name: str) -> list[float | None]:
    return [getattr(row, name) for row in report.rows]


def test_metrics_are_found_by_usual_names(tmp_path: Path) -> None:
    report = measure_early(logged(tmp_path / "run.zarr"))
    assert report.metrics == {"gradient": "train/Grad-Norm", "loss": "val/Loss", "accuracy": "acc"}
    assert column(report, "loss") == [0, 7.5, None, 27.5, 35]  # means since the row before
    assert column(report, "gradient") == [0, 22.5, None, 82.5, 105]
    assert column(report, "accuracy") == [0, 20, 40, 60, 70]  # the last
    assert report.phases.of == "gradient"
    report = measure_early(tmp_path / "run.zarr", loss="my-loss", accuracy="val/Loss")
    assert column(report, "loss") == [0, -7.5, None, -27.5, -35]
    assert column(report, "accuracy") == [0, 10, 20, 30, 35]
    with refuses(UsageError, "no metric 'top5'", "my-loss"):
        measure_early(tmp_path / "run.zarr", accuracy="top5")


def test_recorded_gradients_come_first(tmp_path: Path) -> None:
    report = measure_early(logged(tmp_path / "run.zarr", gradients=True), steps=[10, 40])
    assert report.metrics["gradient"] == "gradients"
    assert column(report, "gradient") == [None, 1, 3]  # the mean of rows 2, 3 and 4
    report = measure_early(tmp_path / "run.zarr", gradient="acc", steps=[10, 40])
    assert column(report, "gradient")[:2] == [0, 15]


def test_weights_without_a_gradient_are_in_no_mean(tmp_path: Path) -> None:
    """Three weights: one never has a gradient, at rows 3 and 4 none has one."""
    path, walk = tmp_path / "run.zarr", wandering(3, 6)
    gradients = np.float32([[np.nan] * 3, [2, -4, 0], [1, 1, 0], [0] * 3, [0] * 3, [-6, 2, 0]])
    gradients[:, 2] = gradients[3:5] = np.nan
    with HistoryWriter.create(path, vector(3), extras=("gradients",)) as writer:
        writer.append(range(6), np.zeros(6), walk.weights, extras={"gradients": gradients})
        writer.log("norm", [1], [2.0])
    report = measure_early(path)
    assert column(report, "gradient") == [None, 3, 1, None, None, 4]
    assert report.gradientless == 1
    assert column(measure_early(path, steps=[2, 5]), "gradient") == [None, 2, 4]
    assert measure_early(path, gradient="norm").gradientless == 0  # of a metric nothing is known


def test_a_diverged_run_says_so(tmp_path: Path) -> None:
    walk = wandering(5, 8)
    walk.weights[5:, 2] = np.nan
    walk.weights[7, 3] = np.inf
    report = measure_early(walk.write(tmp_path / "run.zarr"))
    assert report.diverged == 5
    assert column(report, "not_finite") == [0] * 5 + [1, 1, 2]
    assert column(report, "to_end") == [None] * 8
    assert None not in column(report, "magnitude")[:5]
    for name in ("step_size", "magnitude", "from_start", "cosine_start", "sign_changes", "moved"):
        assert column(report, name)[5:] == [None] * 3, name
    assert "4 points" in report.phases.why
    fine = measure_early(tmp_path / "run.zarr", until=4)
    assert fine.diverged is None


def test_huge_weights_are_unknown_not_wrong(tmp_path: Path) -> None:
    weights = np.float64([[1, 1e-300], [1e200, 1], [-1e200, 1e308]])
    path = Recorded(vector(2), [0, 1, 2], weights).write(tmp_path / "run.zarr")
    report = measure_early(path)
    assert column(report, "from_start") == [0, None, None]
    assert column(report, "not_finite") == [0, 0, 0]


CURVES = [
    ([9, 6, 3, 1, 1, 2, 4, 5, 5, 5, 5], (3, 7, 7)),
    ([9, 6, 3, 1, 1, 2, 4, 9, 12, 13, 9, 5, 5, 5, 5], (3, 9, 11)),  # beyond it, then back
    ([9, 6, 3, 1, 1, 2, 4, 5, 8, 8, 8, 5, 5, 5, 5, 5, 5], (3, 8, 11)),  # passes 5 on its way up
    ([9, 6, 3, 1, 1, 2, 4, 5, 5, 5, 5, 5, 5, 5, 5, 8, 9, 8], (3, 16, 7)),  # highest at last
    ([9, 6, 3, 1, 1, 2, 4, 8, 16, 32, 64], (3, 10, None)),  # never settles
    ([9, 8, 7, 6, 5, 4, 3, 2, 1], (None, None, None)),  # no minimum
    ([5, 5, 5, 5, 5, 5, 5.1, 5], (None, None, None)),  # flat
    ([1, 1, 1, 2, 3, 4, 5, 5, 5, 5], (None, None, None)),  # no fall
    ([9, 8, 7, 6, 5, 5, 5.2, 5.2, 5.2, 4, 3, 2], (None, None, None)),  # a rise of 4 % is none
    ([9, 1, 1, 9], (None, None, None)),  # too short
    ([], (None, None, None)),
]


@pytest.mark.parametrize(("curve", "found"), CURVES)
def test_sub_phases(curve: list[float], found: tuple[int | None, ...]) -> None:
    steps = [10 * i for i in range(len(curve))]
    phases = find_sub_phases("gradient", steps, curve)
    expected = tuple(None if i is None else 10 * i for i in found)
    assert (phases.minimum, phases.peak, phases.settled) == expected
    assert (not phases.why) == (phases.settled is not None)
    scaled = find_sub_phases("gradient", steps, [1e-9 * v for v in curve])
    assert scaled == phases


def test_one_outlier_is_no_minimum() -> None:
    assert find_sub_phases("x", range(9), [9, 8, 7, 1, 6, 5, 4, 3, 2]).minimum is None


def test_how_far_one_looks_does_not_move_where_it_settles() -> None:
    """Steps and step sizes of N0 on MNIST, seed 0: they double, and fall to half of that."""
    sizes = [21.7, 17.1, 17.2, 18.3, 20.1, 22.2, 23.3, 26.0, 28.5, 30.0, 34.7, 35.9, 31.1, 23.6]
    sizes += [19.1, 16.6, 15.1, 12.2, 11.9, 11.5, 10.8, 9.87, 9.85, 9.41, 9.23, 9.47, 9.4, 9.11]
    sizes += [9.3, 9.54, 9.49, 9.72, 9.66, 9.67, 9.49]
    steps = [10, 20, 30, 40, 50, 60, 70, 80, 90, 110, 130, 160, 190, 220, 270, 320, 380, 460, 550]
    steps += [660, 790, 950, 1130, 1360, 1630, 1950, 2340, 2810, 3360, 4030, 4840, 5800, 6960]
    steps += [8340, 10_000]
    found = {s: find_sub_phases("x", steps[:i], sizes[:i]) for i, s in enumerate(steps, 1)}
    assert {found[s] for s in steps if s > 1700} == {SubPhases("x", 20, 160, 950)}
    assert {found[s].settled for s in steps if 190 < s < 700} == {None}  # it still falls


def moving(path: Path, sizes: list[float], steps: list[int]) -> Path:
    ways = np.concatenate([[0], np.multiply(sizes, np.diff(steps))])
    weights = np.cumsum(ways)[:, None] * np.ones((1, 3))
    return Recorded(vector(3), steps, weights.astype(np.float64)).write(path)


def test_sub_phases_of_step_sizes_need_even_steps(tmp_path: Path) -> None:
    sizes = [9, 6, 3, 1, 1, 2, 4, 5, 5, 5, 5, 5]
    even = moving(tmp_path / "even.zarr", sizes, list(range(0, 65, 5)))
    assert measure_early(even).phases == SubPhases("step size", 20, 40, 40)
    uneven = moving(tmp_path / "log.zarr", sizes, [2**i for i in range(13)])
    found = measure_early(uneven).phases
    assert found.minimum is None
    assert "up to step 2, where the recorded steps cease to be evenly spaced" in found.why
    both = moving(tmp_path / "both.zarr", [*sizes, 7, 7], [*range(13), 20, 40])
    found = measure_early(both).phases
    assert (found.minimum, found.settled) == (4, 8)
    assert "up to step 12" in found.why


def test_sub_phases_of_a_metric_that_is_logged_at_few_steps(tmp_path: Path) -> None:
    curve = [9, 6, 3, 1, 1, 2, 4, 5, 5, 5, 5, 5]
    walk = wandering(3, 131)
    walk.weights[125:] = np.nan
    path = walk.write(tmp_path / "run.zarr")
    with HistoryWriter.open(path) as writer:
        for name in ("grad_norm", "loss"):
            writer.log(name, range(10, 140, 10), [*curve, 50])
    report = measure_early(path, steps=range(1, 131))
    assert column(report, "gradient")[:12] == [None] * 10 + [9, None]
    assert report.phases == SubPhases("gradient", 40, 80, 80)  # without what diverged
    lines = [line for axes in early_figure.draw_early(report).axes for line in axes.lines]
    for at in (0, -1):  # lines, and no single dots
        assert list(lines[at].get_xdata()) == [*range(10, 140, 10)]
        assert list(lines[at].get_ydata()) == [*curve, 50]


def test_what_is_refused(tmp_path: Path) -> None:
    path = wandering(3, 9).write(tmp_path / "run.zarr")
    cases: list[tuple[type[Exception], tuple[str, ...], dict[str, Any]]] = [
        (SamplingError, ("3 recorded steps", "2 up to step 1", "raise until"), {"until": 1}),
        (StepNotRecordedError, ("step 99", "nearest are 8"), {"steps": [99]}),
        (UsageError, ("until, 4", "got 6"), {"steps": [2, 6], "until": 4}),
        (UsageError, ("others than the first, 0",), {"steps": [0]}),
        (UsageError, ("points", "got 2"), {"points": 2}),
        (UsageError, ("moved", "got -1"), {"moved": -1}),
        (UsageError, ("moved", "got nan"), {"moved": math.nan}),
        (UsageError, ("moved", "got 'x'"), {"moved": "x"}),
        (UsageError, ("select none",), {"include": "q*"}),
    ]
    for error, words, options in cases:
        with refuses(error, *words):
            measure_early(path, **options)
    short = wandering(3, 2).write(tmp_path / "short.zarr")
    with refuses(SamplingError, "has 2:", "record more"):
        measure_early(short)


def test_table_and_picture(tmp_path: Path) -> None:
    report = measure_early(logged(tmp_path / "run.zarr", gradients=True))
    save_table(report, tmp_path / "early.csv")
    with (tmp_path / "early.csv").open() as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == COLUMNS
    for words, row in zip(rows[1:], report.rows, strict=True):
        values = [getattr(row, name) for name in COLUMNS]
        assert [float(w) if w else None for w in words] == values
    with refuses(OutputExistsError, "early.csv"):
        save_table(report, tmp_path / "early.csv")
    early_figure.save_early_figure(report, tmp_path / "early.svg")
    with refuses(OutputExistsError, "early.svg"):
        early_figure.save_early_figure(report, tmp_path / "early.svg")
    with refuses(UsageError, ".png"):
        early_figure.save_early_figure(report, tmp_path / "early.gif")


@pytest.mark.parametrize("steps", [list(range(0, 65, 5)), list(range(7, 20)), [0, 3, 9]])
def test_the_picture_shows_the_numbers(tmp_path: Path, steps: list[int]) -> None:
    sizes = [9, 6, 3, 1, 1, 2, 4, 5, 5, 5, 5, 5][: len(steps) - 1]
    report = measure_early(moving(tmp_path / "_odd$name.zarr", sizes, steps))
    figure = early_figure.draw_early(report)
    shown = [row for row in report.rows if row.step > 0]
    lines = [line for axes in figure.axes for line in axes.lines]
    names = ("step_size", "magnitude", "from_start", "to_end", "cosine_start", "cosine_end")
    for line, name in zip(lines, (*names, "sign_changes", "moved"), strict=True):
        points = [(row.step, v) for row in shown if (v := getattr(row, name)) is not None]
        assert [*zip(line.get_xdata(), line.get_ydata(), strict=True)] == points
    assert all(axes.get_xscale() == "log" for axes in figure.axes[:5])
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == (["fall", "between", "settled"] if report.phases.settled else [])
    title = figure.get_suptitle()
    assert ("no sub-phases" in title) == (report.phases.minimum is None)
    figure.canvas.draw()
