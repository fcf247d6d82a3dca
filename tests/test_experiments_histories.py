"""Pictures of weight histories, against slow loops over the whole history in memory."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image
from store_reference import Recorded, refuses, same_values, wandering

from weightcast.experiments import changes as changing
from weightcast.experiments import one_weight as picking
from weightcast.experiments import trajectories as following
from weightcast.experiments.changes import changes, save_changes, table
from weightcast.experiments.one_weight import one_weight, save_one_weight
from weightcast.experiments.trajectories import save_trajectories, trajectories
from weightcast.recorder import Recorder
from weightcast.store import (
    History,
    MissingExtraError,
    NonFiniteError,
    OutputExistsError,
    ParameterTable,
    SamplingError,
    ShapeError,
    UsageError,
)
from weightcast.store.keyed import words
from weightcast.store.spread import QUANTILES

TENSORS: Sequence[Any] = [
    ("conv.weight", (2, 3), "float32", "weight"),
    ("scale", (), "float32", "bias"),
    ("fc.weight", (4, 5), "float32", "weight"),
]
MODEL = ParameterTable.of(TENSORS)
Open = Callable[[Recorded], History]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Histories in chunks of a few weights and steps."""

    def write(recorded: Recorded) -> History:
        path = tmp_path_factory.mktemp("h") / "run.zarr"
        return History(recorded.write(path, block=4, width=5))

    return write


@st.composite
def walks(draw: st.DrawFn, least: int = 2) -> Recorded:
    """Random walks of different sizes, at steps with gaps; some weights rest, one may be NaN."""
    gaps = draw(st.lists(st.integers(1, 50), min_size=least, max_size=11))
    first = draw(st.sampled_from([0, 1, 7]))
    steps = [first + sum(gaps[:i]) for i in range(len(gaps))]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = random.integers(0, 4, MODEL.size)
    moves = random.normal(size=(len(steps), MODEL.size)) * sizes
    weights = moves.cumsum(axis=0).astype(draw(st.sampled_from([np.float32, np.float64])))
    if draw(st.booleans()):
        weights[random.integers(len(steps)), random.integers(MODEL.size)] = np.nan
    return Recorded(MODEL, steps, weights)


def measured(recorded: Recorded) -> dict[str, list[float]]:
    """Both measures, a weight at a time; NaN for one that is NaN at any step."""
    found: dict[str, list[float]] = {"change": [], "deviation": []}
    kind = recorded.weights.dtype
    for line in recorded.weights.T:
        away = [float(w) - float(line[0]) for w in line]
        mean = sum(a * a for a in away[1:]) / (len(away) - 1)
        whole = bool(np.isfinite(line).all())
        found["change"].append(float(abs(line[-1] - line[0])) if whole else np.nan)
        found["deviation"].append(float(kind.type(np.sqrt(mean))) if whole else np.nan)
    return found


def key(seed: int, weight: int) -> int:
    return int(words(seed, 0, weight, weight + 1)[0, 0])


def third(value: float, largest: float) -> str:
    return "low" if value <= largest / 3 else "middle" if value <= largest * 2 / 3 else "high"


# ---- figures 1 to 3


@settings(max_examples=20)  # each writes histories
@given(
    recorded=walks(),
    weights=st.integers(1, 5),
    seed=st.integers(0, 2**64 - 1),
    by=st.sampled_from(["change", "deviation"]),
    log=st.booleans(),
)
def test_trajectories_are_of_weights_drawn_from_each_third(
    opened: Open, recorded: Recorded, weights: int, seed: int, by: Any, log: bool
) -> None:
    found = trajectories(opened(recorded), weights=weights, seed=seed, by=by, log=log)
    moved = measured(recorded)[by]
    largest = float(np.nanmax(moved))
    assert list(found.weights) == list(found.values) == ["high", "middle", "low"]
    assert found.bounds["high"][1] == largest
    assert found.bounds["low"][0] == 0
    rows = [recorded.steps.index(step) for step in found.steps.tolist()]
    assert rows[0] == 0
    assert rows[-1] == len(recorded.steps) - 1
    assert rows == sorted(set(rows))
    for name, drawn in found.weights.items():
        mine = [w for w, value in enumerate(moved) if third(value, largest) == name]
        mine = [w for w in mine if not np.isnan(moved[w])]
        expected = sorted(sorted(mine, key=lambda w: key(seed, w))[:weights])
        assert [w.parameter for w in drawn] == expected
        assert [str(w) for w in drawn] == [MODEL.locate(w) for w in expected]
        assert same_values(found.values[name], recorded.weights[rows][:, expected].T)
        low, high = found.bounds[name]
        assert all(low * (1 - 1e-9) <= moved[w] <= high * (1 + 1e-9) for w in expected)


@settings(max_examples=20)  # each writes histories
@given(recorded=walks(), points=st.integers(4, 9))
def test_steps_lie_evenly_on_either_axis(opened: Open, recorded: Recorded, points: int) -> None:
    history, steps = opened(recorded), recorded.steps
    with mock.patch.object(following, "MOST_POINTS", points):
        linear = trajectories(history).steps.tolist()
        log = trajectories(history, log=True).steps.tolist()
    even = np.linspace(steps[0], steps[-1], points).tolist()
    rising = np.geomspace(max(steps[0], 1), steps[-1], points - 1).tolist()
    for found, grid in ((linear, even), (log, [steps[0], *rising])):
        near = {min(itertools.chain((s for s in steps if s >= round(x)), steps[-1:])) for x in grid}
        assert found == sorted(near)


def test_all_steps_are_shown_where_they_are_few(opened: Open) -> None:
    recorded = Recorded(MODEL, list(range(0, 900, 3)), np.ones((300, MODEL.size), np.float32))
    assert trajectories(opened(recorded)).steps.tolist() == recorded.steps


def test_a_logarithmic_axis_begins_at_the_first_step(opened: Open) -> None:
    recorded = Recorded(MODEL, list(range(100, 401)), np.ones((301, MODEL.size), np.float32))
    with mock.patch.object(following, "MOST_POINTS", 4):
        found = trajectories(opened(recorded), log=True)
    assert found.steps.tolist() == [100, 200, 400]


def test_a_recording_with_several_dtypes(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, dtype=torch.float64))
    model.append(torch.nn.Linear(2, 2, dtype=torch.bfloat16))
    torch.manual_seed(0)
    with Recorder(model, tmp_path / "run.zarr", "steps:1,4,5") as recorder:
        for _ in range(5):
            for parameter in model.parameters():
                parameter.data += torch.randn(parameter.shape).to(parameter.dtype)
            recorder()
    history = History(tmp_path / "run.zarr")
    found = trajectories(history, weights=50)
    assert found.steps.tolist() == [0, 1, 4, 5]
    rows = np.stack([history.snapshot(step) for step in (0, 1, 4, 5)])
    drawn = {name: [w.parameter for w in those] for name, those in found.weights.items()}
    assert sorted(itertools.chain(*drawn.values())) == list(range(history.parameters.size))
    for name, places in drawn.items():
        assert same_values(found.values[name], rows[:, places].T)
    report = changes({"mixed": history})["mixed"]
    assert report.model.change is not None
    assert report.model.change.largest == np.abs(rows[-1] - rows[0]).max()


def test_histories_that_give_no_trajectories(opened: Open) -> None:
    one = opened(Recorded(MODEL, [3], np.ones((1, MODEL.size), np.float32)))
    lost = opened(Recorded(MODEL, [3, 4], np.full((2, MODEL.size), np.nan, np.float32)))
    with refuses(SamplingError, "two recorded steps", one.path):
        trajectories(one)
    with refuses(NonFiniteError, "finite", lost.path):
        trajectories(lost)
    with refuses(UsageError, "at least 1", -2):
        trajectories(one, weights=-2)


# ---- figures 4 to 9


@settings(max_examples=20)  # each writes histories
@given(walks(), walks())
def test_numbers_of_several_networks(
    opened: Open, tmp_path_factory: pytest.TempPathFactory, first: Recorded, second: Recorded
) -> None:
    path = tmp_path_factory.mktemp("out") / "changes.svg"
    recorded = {"N0": first, "two": second}
    with mock.patch.multiple(changing, draw_changes=mock.DEFAULT, save=mock.DEFAULT):  # slow
        save_changes(path, {name: opened(r) for name, r in recorded.items()})
    document = json.loads(path.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert list(document) == ["N0", "two"]
    for name, facts in document.items():
        steps, count = recorded[name].steps, MODEL.size
        for measure, values in measured(recorded[name]).items():
            numbers = [v for v in values if not np.isnan(v)]
            assert facts["weights"] - facts["not_finite"] == len(numbers)
            check_numbers(facts[measure], sorted(numbers))
        assert (facts["first_step"], facts["last_step"]) == (steps[0], steps[-1])
        assert (facts["steps"], facts["weights"]) == (len(steps), count)


def check_numbers(found: dict[str, Any], values: Sequence[float]) -> None:
    """Compare a measure's numbers with those of sorted values."""
    largest = values[-1]
    ranks = {q: max(int(np.ceil(q * len(values))), 1) - 1 for q in QUANTILES}
    assert found["quantiles"] == {f"{q:g}": values[rank] for q, rank in ranks.items()}
    assert found["largest"] == largest
    assert found["mean"] == pytest.approx(sum(values) / len(values))
    assert found["never_moved"] == sum(v == 0 for v in values) / len(values)
    assert found["barely_moved"] == sum(v <= 0.01 * largest for v in values) / len(values)
    edges = np.linspace(0, 1, 101)[1:] * largest
    bins = [next(i for i, edge in enumerate(edges) if v <= edge) for v in values]
    assert found["histogram"] == [bins.count(i) for i in range(100)]


def test_chosen_quantiles_and_measures_without_a_number(opened: Open) -> None:
    weights = np.zeros((2, MODEL.size), np.float32)
    weights[1] = np.arange(MODEL.size)
    report = changes({"x": opened(Recorded(MODEL, [0, 9], weights))}, quantiles=(0.5,))["x"]
    assert table(report)["change"]["quantiles"] == {"0.5": 13.0}
    lost = opened(Recorded(MODEL, [0, 9], weights * np.nan))
    facts = table(changes({"x": lost})["x"])
    assert (facts["not_finite"], facts["change"], facts["deviation"]) == (MODEL.size, None, None)


# ---- figure 10


def jumped(first: int, at: Sequence[int], seed: int = 0) -> tuple[Recorded, Recorded]:
    """A run without and with a jump that shows from step `first` on, and moves some weights."""
    random = np.random.default_rng(seed)
    steps = sorted({0, *at})
    plain = random.normal(size=(len(steps), MODEL.size)).cumsum(axis=0).astype(np.float32)
    moves = random.integers(0, 4, MODEL.size).astype(np.float32) / 2
    moves[random.integers(MODEL.size)] = -5
    with_jumps = plain + moves * (np.array(steps) >= first)[:, None].astype(np.float32)
    return Recorded(MODEL, steps, plain), Recorded(MODEL, steps, with_jumps)


@settings(max_examples=20)  # each writes histories
@given(
    point=st.integers(1, 60),
    late=st.booleans(),
    seed=st.integers(0, 99),
    steps=st.sets(st.integers(1, 99), min_size=4),
    lost=st.booleans(),
)
def test_one_weight_goes_by_how_far_the_jump_moved_it(
    opened: Open, point: int, late: bool, seed: int, steps: set[int], lost: bool
) -> None:
    """With the jump point itself recorded after the jump, or (`late`) before it."""
    at = sorted(steps | {point, 100, 101})
    shows = next(s for s in at if s > point) if late else point
    plain, jumps = jumped(shows, at, seed)
    if lost:
        jumps.weights[at.index(shows) + 1 :, 3] = np.nan
    pair = opened(plain), opened(jumps)
    picked = one_weight(*pair, [101, point], seed=seed)
    row = plain.steps.index(shows)
    moved = [abs(float(jumps.weights[row, w] - plain.weights[row, w])) for w in range(MODEL.size)]
    places = [w for w in range(MODEL.size) if moved[w] > 0]  # NaN is not
    ranked = sorted(moved[w] for w in places)
    median = ranked[(len(ranked) - 1) // 2]
    largest, middle, chance = (w.parameter for w in picked)
    assert largest == next(w for w in places if moved[w] == ranked[-1])
    assert middle == next(w for w in places if moved[w] == median)
    assert chance == places[int(key(seed, 0) / 2**64 * len(places))]
    assert [w.rule for w in picked] == ["largest", "median", "random"]
    for weight in picked:
        assert weight.step == shows
        assert weight.moved == moved[weight.parameter]
        assert weight.name == MODEL.locate(weight.parameter)
        assert same_values(weight.plain, plain.weights[:, weight.parameter])
        assert same_values(weight.jumps, jumps.weights[:, weight.parameter])


def test_runs_recorded_at_other_steps(opened: Open) -> None:
    """Only steps that both recorded say how far the jump moved a weight."""
    plain, jumps = jumped(20, [5, 15, 20, 25, 30, 40])
    dense = rows_of(jumps, [0, 2, 3, 4, 5, 6])
    largest, *_ = one_weight(opened(rows_of(plain, [0, 3, 5, 6])), opened(dense), [18, 35])
    assert largest.step == 20
    assert (len(largest.plain), len(largest.jumps)) == (4, 6)
    without = rows_of(plain, [0, 1, 5])
    assert one_weight(opened(without), opened(jumps), [18])[0].step == 30


def rows_of(recorded: Recorded, rows: list[int]) -> Recorded:
    return Recorded(MODEL, [recorded.steps[i] for i in rows], recorded.weights[rows])


def test_a_random_pick_follows_the_seed(opened: Open) -> None:
    pair = tuple(map(opened, jumped(20, [20, 30])))
    picks = [tuple(w.parameter for w in one_weight(*pair, [20], seed=seed)) for seed in range(20)]
    assert len({pick[:2] for pick in picks}) == 1
    assert len({pick[2] for pick in picks}) > 3


def test_histories_that_are_not_of_one_run(opened: Open) -> None:
    recorded = jumped(20, [10, 20, 30])
    plain, jumps = map(opened, recorded)
    other = opened(wandering(9, 3))
    with refuses(ShapeError, plain.path, other.path, "conv.weight"):
        one_weight(plain, other, [20])
    with refuses(UsageError, "initial weights", "step 0"):
        one_weight(plain, opened(jumped(20, [10, 20, 30], seed=1)[1]), [20])
    with refuses(SamplingError, "was moved by the jump at 5", "at 10 and 20"):
        one_weight(plain, plain, [5, 20])
    with refuses(SamplingError, "at 31", "no step"):
        one_weight(plain, jumps, [31])
    with refuses(UsageError, "jump points", "[]"):
        one_weight(plain, jumps, [])
    with refuses(UsageError, "jump points", "-1"):
        one_weight(plain, jumps, [20, -1])


# ---- pictures


TITLE = "$N_0$"
NAME = f"_{'x' * 40}$\\bad$_"  # Matplotlib would take parts for formulas, or leave it out


def draw_trajectories(path: Path, plain: History, jumps: History, **options: Any) -> Any:
    return save_trajectories(path, {TITLE: plain, "jumps": jumps}, **options)


def draw_changes(path: Path, plain: History, jumps: History, **options: Any) -> Any:
    return save_changes(path, {TITLE: plain, "jumps": jumps}, **options)


def draw_one_weight(path: Path, plain: History, jumps: History, **options: Any) -> Any:
    return save_one_weight(path, plain, jumps, [3, 11], title=TITLE, **options)


DRAWINGS = [draw_trajectories, draw_changes, draw_one_weight]
drawings = pytest.mark.parametrize("draw", DRAWINGS)


@pytest.fixture
def pair(opened: Open) -> tuple[History, History]:
    table = ParameterTable.of([(NAME, (30,), "float32", "weight")])
    moves = np.random.default_rng(0).normal(size=(6, 30)).astype(np.float32)
    plain = Recorded(table, [0, 2, 3, 10, 11, 40], moves.cumsum(axis=0))
    moves[2:, ::2] += 1
    return opened(plain), opened(Recorded(table, plain.steps, moves.cumsum(axis=0)))


def drawn(module: Any, draw: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The figure that would be saved, laid out."""
    with mock.patch.object(module, "save") as saved:
        draw(*arguments, **options)
    figure = saved.call_args.args[0]
    figure.canvas.draw()
    return figure


@drawings
def test_a_picture_is_written_once(
    draw: Callable[..., Any], tmp_path: Path, pair: tuple[History, History]
) -> None:
    path = tmp_path / "picture.png"
    draw(path, *pair)
    before = path.read_bytes()
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
        assert picture.width > 800
    with refuses(OutputExistsError, path, "exists"):
        draw(path, *pair)
    path.write_text("another")
    draw(path, *pair, overwrite=True)
    assert path.read_bytes() == before


def test_a_picture_without_a_palette(tmp_path: Path, pair: tuple[History, History]) -> None:
    draw_one_weight(tmp_path / "picture.svg", *pair)
    assert b"<svg" in (tmp_path / "picture.svg").read_bytes()


@drawings
def test_what_cannot_be_drawn_is_refused_before_any_work(
    draw: Callable[..., Any],
    tmp_path: Path,
    pair: tuple[History, History],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module, name in ((following, "trajectories"), (changing, "changes"), (picking, "_moved")):
        monkeypatch.setattr(module, name, None)
    with refuses(UsageError, ".png, .svg, .pdf", "picture.txt"):
        draw(tmp_path / "picture.txt", *pair)
    (tmp_path / "taken.png").touch()
    with refuses(OutputExistsError, "taken.png"):
        draw(tmp_path / "taken.png", *pair)
    with refuses(OutputExistsError, "input"):
        draw(pair[1].folder / "picture.png", *pair)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with refuses(MissingExtraError, "plot"):
        draw(tmp_path / "picture.png", *pair)
    assert [p.name for p in tmp_path.iterdir()] == ["taken.png"]


def test_numbers_of_another_picture_are_kept(tmp_path: Path, pair: tuple[History, History]) -> None:
    (tmp_path / "changes.json").write_text("mine")
    with refuses(OutputExistsError, "changes.json"):
        draw_changes(tmp_path / "changes.png", *pair)
    assert not (tmp_path / "changes.png").exists()
    assert (tmp_path / "changes.json").read_text() == "mine"


@pytest.mark.parametrize("save", [save_trajectories, save_changes])
def test_a_picture_needs_a_history(save: Callable[..., Any], tmp_path: Path) -> None:
    with refuses(UsageError, "one history at least"):
        save(tmp_path / "picture.png", {})


@pytest.mark.parametrize("log", [False, True])
def test_drawn_trajectories_begin_at_zero(
    tmp_path: Path, pair: tuple[History, History], log: bool
) -> None:
    figure = drawn(following, draw_trajectories, tmp_path / "a.png", *pair, weights=3, log=log)
    assert [part.get_suptitle() for part in figure.subfigs] == [TITLE, "jumps"]
    shown = figure.axes
    for axes, (history, name) in zip(
        shown, itertools.product(pair, ("high", "middle", "low")), strict=True
    ):
        found = trajectories(history, weights=3, log=log)
        low, high = found.bounds[name]
        assert axes.get_title() == f"{name} variation: change from {low:.2g} to {high:.2g}"
        assert axes.get_xscale() == ("log" if log else "linear")
        first = 1 if log else 0  # there is no step 0 on a logarithmic axis
        *lines, zero = axes.get_lines()
        assert list(zero.get_ydata()) == [0, 0]
        for line, values in zip(lines, found.values[name].astype(float), strict=True):
            assert list(line.get_xdata()) == [0, 2, 3, 10, 11, 40][first:]
            assert list(line.get_ydata()) == list((values - values[0])[first:])
        texts = axes.get_legend().get_texts()
        for text, weight in zip(texts, found.weights[name], strict=True):
            assert text.get_text().removeprefix(" ...") in str(weight)
            assert text.get_text().endswith(f"[{weight.index[0]}]")
            assert not text.get_parse_math()


@pytest.mark.parametrize("log", [False, True])
def test_a_third_without_a_weight_says_so(tmp_path: Path, opened: Open, log: bool) -> None:
    still = opened(Recorded(MODEL, [0, 8], np.ones((2, MODEL.size), np.float32)))
    figure = drawn(following, save_trajectories, tmp_path / "a.png", {"still": still}, log=log)
    words_of = [[t.get_text() for t in axes.texts] for axes in figure.axes]
    assert words_of == [["no weight"], ["no weight"], []]
    figure = drawn(changing, save_changes, tmp_path / "b.png", {"still": still})
    assert all("no weight moved" in [t.get_text() for t in axes.texts] for axes in figure.axes)


def test_drawn_histograms_stand_side_by_side(tmp_path: Path, pair: tuple[History, History]) -> None:
    figure = drawn(changing, draw_changes, tmp_path / "a.png", *pair)
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles == [f"{TITLE}\n30 weights", "jumps\n30 weights"]
    document = json.loads((tmp_path / "a.json").read_text())
    for part, facts in zip(figure.subfigs, document.values(), strict=True):
        for axes, measure in zip(part.axes, ("change", "deviation"), strict=True):
            (bars,) = axes.patches
            assert bars.get_data().values.tolist() == facts[measure]["histogram"]
            assert bars.get_data().edges[-1] == pytest.approx(facts[measure]["largest"])
            assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
            assert measure in axes.get_title()


def test_drawn_weights_are_beside_their_jump_points(
    tmp_path: Path, pair: tuple[History, History]
) -> None:
    figure = drawn(picking, draw_one_weight, tmp_path / "a.png", *pair)
    assert figure.get_suptitle() == TITLE
    for axes, weight in zip(figure.axes, one_weight(*pair, [3, 11]), strict=True):
        plain, jumps, *points = axes.get_lines()
        assert list(plain.get_xdata()) == [0, 2, 3, 10, 11, 40]
        assert list(plain.get_ydata()) == list(weight.plain)
        nan = np.nan  # a gap before step 3 and before step 11
        assert_array_equal(jumps.get_xdata(), [0, 2, nan, 3, 10, nan, 11, 40])
        values = np.insert(weight.jumps, [2, 4], nan)
        assert_array_equal(jumps.get_ydata(), values)
        assert [list(point.get_xdata()) for point in points] == [[3, 3], [11, 11]]
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == ["plain", "jumps", "jump points"]
        assert f"[{weight.parameter}]" in axes.get_title()
        assert f"{weight.moved:.2g} at step 3" in axes.get_title()


def test_lines_break_after_a_jump_point_that_was_recorded_before_its_jump(
    tmp_path: Path, opened: Open
) -> None:
    runs = [opened(run) for run in jumped(20, [10, 20, 30])]
    with mock.patch.object(picking, "save") as saved:
        save_one_weight(tmp_path / "a.png", *runs, [10])
    for axes in saved.call_args.args[0].axes:
        assert_array_equal(axes.get_lines()[1].get_xdata(), [0, 10, np.nan, 20, 30])
