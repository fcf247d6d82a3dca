"""From runs to numbers, verdicts, pictures and the document: on curves made up for the purpose."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses

from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.claims import judge
from weightcast.experiments.comparing import compare, race
from weightcast.experiments.curves import save_curves
from weightcast.experiments.document import document, main, write_document
from weightcast.experiments.experiment import Arm, Claim, Experiment, Updates
from weightcast.experiments.findings import findings
from weightcast.experiments.merging import compact, expand, gather, run_set
from weightcast.experiments.results import RunResult, Trace, file_name, write_result
from weightcast.experiments.running import _FREE
from weightcast.experiments.sections import command
from weightcast.experiments.summary import BEST, Spread, Summary, reach, summarise
from weightcast.store import FormatError, InputNotFoundError, MissingExtraError

GOLDEN = Path(__file__).parent / "golden"
DOCS = Path(__file__).parent.parent / "docs"
NEVER = math.inf
CLAIMS = (
    Claim("plain", "accuracy", 0.9, 400),
    Claim("jumps", "accuracy", 0.95, 400),
    Claim("jumps", "steps to plain's best", 300),
    Claim("plain", "steps to accuracy", 400, 0.8),
    Claim("jumps", "steps to accuracy", 100, 0.8),
)
TINY = Experiment(
    name="tiny",
    title="Made up",
    paper="Nobody 2026",
    data="mnist",
    network="fm16",
    updates=Updates("SGD", 0.1, {"momentum": 0.9}),
    batch=5,
    steps=400,
    evaluate_every=100,
    arms=(Arm("plain"), Arm("jumps", (200, 250)), Arm("one-cycle", schedule="one-cycle")),
    claims=CLAIMS,
    figures="7",
    notes=("No run was made of this.",),
)
CURVES = {  # by arm, at steps 0 to 400, of seed 1; others are shifted by a little
    "plain": [0.1, 0.5, 0.6, 0.7, 0.8],
    "jumps": [0.1, 0.5, 0.7, 0.8, 0.9],
    "one-cycle": [0.1, 0.6, 0.9, 0.95, 0.98],
}


@pytest.fixture(autouse=True)
def catalogued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "tiny", TINY)


def trace(accuracy: Sequence[float], every: int = 100) -> Trace:
    steps = [every * i for i in range(len(accuracy))]
    return Trace(steps, [1 - a for a in accuracy], list(accuracy), [], [s / 100 for s in steps])


def run(arm: str, seed: int, accuracy: Sequence[float], entry: Experiment = TINY) -> RunResult:
    """A run's result as `run_arm` makes it."""
    arms = {a.name: a for a in entry.arms}
    protocol = {k: v for k, v in asdict(entry).items() if k not in _FREE}
    curve = trace(accuracy, entry.evaluate_every)
    traces = {arm: curve}
    if arm == "plain" and entry.averaged:
        traces["averaging"] = trace([a + 0.01 for a in accuracy], entry.evaluate_every)
    made = {
        "experiment": json.loads(json.dumps(protocol)),
        "arm": {**asdict(arms[arm]), "jumps": list(arms[arm].jumps)},
        "data": {"about": "nothing at all", "sha256": {"file": "0" * 64}},
        "budget": entry.budget,
        "versions": {"torch": "2.13.0"},
    }
    jumps = list(arms[arm].jumps)
    spent = {"seconds": curve.seconds[-1], "forecast_seconds": 0.5 * len(jumps)}
    peak = 0.3 if arm == "one-cycle" else None
    return RunResult(entry.name, arm, seed, made, traces, jumps, [], peak=peak, **spent)


def every(entry: Experiment = TINY, seeds: Sequence[int] = (1, 2, 3)) -> list[RunResult]:
    return [
        run(arm.name, seed, [a + 0.003 * (seed - 1) for a in CURVES[arm.name]], entry)
        for arm in entry.arms
        for seed in seeds
    ]


def written(folder: Path, runs: Sequence[RunResult]) -> Path:
    for result in runs:
        budget = str(result.made["budget"])
        name = result.experiment if budget == "paper" else f"{result.experiment}-{budget}"
        write_result(result, folder / name / file_name(result.arm, result.seed))
    return folder


def summary_of(curves: Mapping[str, Sequence[Sequence[float]]]) -> Summary:
    """Arms with a curve for each seed."""
    return summarise(
        run_set([run(arm, s, c) for arm, cs in curves.items() for s, c in enumerate(cs)])
    )


# ---- numbers


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 40).map(lambda n: n / 40), min_size=1, max_size=12),
    st.integers(0, 40).map(lambda n: n / 40),
)
def test_a_level_is_reached_where_the_median_of_four_evaluations_holds_it(
    accuracy: list[float], level: float
) -> None:
    expected, seconds = NEVER, NEVER
    for i in reversed(range(len(accuracy))):
        doubled = sorted(round(40 * a) for a in accuracy[max(i - 3, 0) : i + 1])
        n = len(doubled)
        if (doubled[(n - 1) // 2] + doubled[n // 2]) >= 2 * round(40 * level):
            expected, seconds = 100 * i, i
    found = reach({7: trace(accuracy)}, {7: level})
    assert (found.steps[7], found.seconds[7]) == (expected, seconds)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 9), st.just(NEVER)), max_size=6))
def test_spread_counts_what_is_never_reached_as_last(values: list[float]) -> None:
    found = Spread(dict(enumerate(values)))
    assert found.reached == len([v for v in values if v != NEVER])
    large = [min(v, 1000) for v in values]
    if not values or statistics.median(large) > 9:
        assert found.median is None
    else:
        assert found.median == statistics.median(large)
    assert (found.low, found.high) == (min(values, default=NEVER), max(values, default=NEVER))


def test_numbers_of_an_arm() -> None:
    found = summarise(run_set(every()))
    assert list(found.arms) == ["plain", "jumps", "one-cycle", "averaging"]
    plain, jumps = found.arms["plain"], found.arms["jumps"]
    assert plain.final.by_seed == pytest.approx({1: 0.65, 2: 0.653, 3: 0.656})  # of .5 to .8
    assert plain.loss.median == pytest.approx(0.347)
    assert plain.targets[BEST].steps.values == [400] * 3
    assert jumps.targets[BEST].steps.values == [400] * 3  # .7 of .5 to .8 holds it at 400
    assert found.arms["one-cycle"].targets[BEST].steps.values == [300] * 3
    assert found.arms["one-cycle"].targets[BEST].seconds.values == [3] * 3
    assert jumps.targets["80 %"].steps.reached == 0
    assert (jumps.forecast_seconds.values, jumps.jumps.values) == ([1] * 3, [2] * 3)
    assert found.missing == {}


def test_a_loss_that_is_not_finite_is_the_worst() -> None:
    bad = run("plain", 1, [0.5, 0.1])
    bad.traces["plain"].loss[-1] = math.nan
    assert summarise(run_set([bad])).arms["plain"].loss.values == [NEVER]


def test_best_is_that_of_plain_with_the_same_seed() -> None:
    level = [0.5] * 5
    found = summary_of({"plain": [level, [0.9] * 5], "jumps": [level, level, [1.0] * 5]})
    assert found.arms["jumps"].targets[BEST].steps.by_seed == {0: 0, 1: NEVER}
    assert found.missing == {"plain": [2], "one-cycle": [0, 1, 2], "averaging": [2]}


# ---- verdicts


@pytest.mark.parametrize(
    ("ours", "other", "fewer", "expected"),
    [
        ([0.93, 0.95], [0.90, 0.91], False, 1),
        ([0.90, 0.91], [0.93, 0.95], False, -1),
        ([0.91, 0.99], [0.90, 0.91], False, 0),  # better in both, by .01 and .08
        ([0.50, 0.99], [0.49, 0.98], False, 1),  # far apart, and the pairs are not
        ([0.90, 0.90], [0.90, 0.90], False, 0),
        ([60, 70], [100, 100], True, 1),
        ([130, 140], [100, 100], True, -1),
        ([60, 110], [100, 100], True, 0),
        ([NEVER, NEVER], [100, 100], True, -1),
        ([60, NEVER], [100, 100], True, 0),
        ([60, 70], [NEVER, NEVER], True, 1),
        ([NEVER, NEVER], [NEVER, NEVER], True, 0),
        ([60], [100, 100], True, None),
        ([], [100, 100], True, None),
    ],
)
def test_better_is_a_gain_larger_than_its_range(
    ours: list[float], other: list[float], fewer: bool, expected: int | None
) -> None:
    mine, theirs = (Spread(dict(enumerate(values))) for values in (ours, other))
    assert compare(mine, theirs, fewer=fewer) is expected


NONE = Claim("jumps", "accuracy", 0.9005, 400)  # CLAIMS[0] is plain's
LOW, HIGH, MIXED = [[0.5] * 5] * 2, [[0.8] * 5] * 2, [[0.8] * 5, [0.2] * 5]
RISING = [[0.1, 0.1, 0.5, 0.5, 0.5]] * 2


@pytest.mark.parametrize(
    ("claim", "plain", "jumps", "verdict"),
    [
        (CLAIMS[1], LOW, HIGH, "reproduced"),
        (CLAIMS[1], HIGH, LOW, "not reproduced"),
        (CLAIMS[1], LOW, MIXED, "no difference beyond the range over seeds"),
        (CLAIMS[1], LOW[:1], HIGH[:1], "one seed: not judged"),
        (CLAIMS[1], LOW, [], "not run"),
        (Claim("jumps", "accuracy", 0.8, 400), HIGH, LOW, "reproduced"),  # worse, as the paper says
        (NONE, LOW, LOW, "reproduced"),
        (NONE, LOW, HIGH, "a difference, where the paper has next to none"),
        (CLAIMS[2], RISING, HIGH, "reproduced"),
        (CLAIMS[2], HIGH, LOW, "not reproduced"),
        (CLAIMS[4], LOW, HIGH, "reproduced"),
        (CLAIMS[4], HIGH, LOW, "not reproduced"),
        (CLAIMS[4], LOW, LOW, "level not reached, nor by plain"),
        (CLAIMS[0], HIGH, LOW, "ours is lower"),
        (CLAIMS[0], [[0.95] * 5], [], "ours is higher"),
        (CLAIMS[0], [[0.95] * 5, [0.9] * 5], [], "ours is the same"),
        (CLAIMS[3], HIGH, [], "ours is sooner"),
        (CLAIMS[3], LOW, [], "not reached"),
        (CLAIMS[3], [], HIGH, "not run"),
    ],
    ids=str,
)
def test_verdicts(
    claim: Claim, plain: list[list[float]], jumps: list[list[float]], verdict: str
) -> None:
    assert judge(claim, summary_of({"plain": plain, "jumps": jumps})).verdict == verdict


FIRST = [0.8] * 7  # at its best before the first jump, at step 200
LATER = [0.1, 0.2, 0.3, 0.6, 0.6, 0.6, 0.6]
JUMPED = [0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9]


@pytest.mark.parametrize(
    ("plain", "jumps", "verdict", "gains"),
    [
        ([FIRST, FIRST], [FIRST, FIRST], "not decided", 0),
        ([FIRST, LATER], [FIRST, JUMPED], "not decided", 1),
        ([FIRST, LATER, LATER], [FIRST, JUMPED, JUMPED], "reproduced", 2),
        ([LATER, LATER], [LATER, LATER], "no difference beyond the range over seeds", 2),
    ],
)
def test_what_was_reached_before_the_first_jump_says_nothing_of_jumps(
    plain: list[list[float]], jumps: list[list[float]], verdict: str, gains: int
) -> None:
    found = summary_of({"plain": plain, "jumps": jumps})
    judged = judge(CLAIMS[2], found)
    assert (judged.verdict, len(judged.gain.by_seed)) == (verdict, gains)
    left_out = len(plain) - gains
    assert [f"{left_out} of {len(plain)} seeds" in limit for limit in judged.limits] == (
        [True] if left_out else []
    )
    assert len(judged.ours.by_seed) == len(plain)  # all stand in the table
    ours, theirs = race(found, "jumps")
    assert ours.by_seed.keys() == theirs.by_seed.keys() == judged.gain.by_seed.keys()


def test_an_arm_of_another_schedule_is_another_run_from_the_start() -> None:
    entry = replace(TINY, arms=(TINY.arms[0], replace(TINY.arms[1], schedule="one-cycle")))
    runs = [run(arm, 0, FIRST, entry) for arm in ("plain", "jumps")]
    assert race(summarise(run_set(runs)), "jumps")[0].by_seed == {0: 0}


def test_runs_that_lose_what_they_had_learned_are_named(tmp_path: Path) -> None:
    fine, fallen = [0.1, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9], [0.1, 0.8, 0.9, 0.9, 0.1, 0.1, 0.1]
    found = summary_of({"plain": [fine] * 3, "jumps": [fine, fallen, fine]})
    said = findings(found, [])
    assert "**jumps fell far below its own best**: seed 1, 85.00 % to 10.00 %." in said
    assert not any("plain fell" in text for text in said)
    end = next(text for text in said if text.startswith("Accuracy at the end"))
    assert "jumps (+0.00 points (-80.00..+0.00))" in end  # the range, where it decides
    loss = next(text for text in said if text.startswith("Loss at the end"))
    assert "no difference beyond the range over seeds: jumps (+0 % (+0..+800))" in loss


def test_an_arm_is_not_credited_with_steps_before_its_first_jump() -> None:
    entry = replace(
        TINY,
        arms=(TINY.arms[0], replace(TINY.arms[1], name="one-cycle + jumps", schedule="one-cycle")),
    )
    early, late = [0.9] * 7, [0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9]
    rows = {"plain": [late] * 3, "one-cycle + jumps": [early, early, late]}
    summary = summarise(
        run_set([run(a, s, c, entry) for a, cs in rows.items() for s, c in enumerate(cs)])
    )
    said = "\n".join(findings(summary, []))
    assert "before its first jump in 2 of 3 seeds" in said
    assert (
        "Soonest at plain's best: one-cycle + jumps (before its first jump), after 0 steps." in said
    )


def test_the_command_has_the_arms_that_ran() -> None:
    assert "--arms" not in command(summarise(run_set(every())))
    some = summary_of({"plain": HIGH, "one-cycle": LOW})
    assert command(some) == "weightcast reproduce tiny --data DATA --seeds 2 --arms plain,one-cycle"


def test_equals_are_named_together() -> None:
    said = findings(summary_of({"plain": LOW, "jumps": HIGH, "one-cycle": HIGH}), [])
    named = "jumps (with a forecaster) and one-cycle (without a forecaster)"
    assert f"Most accurate at the end: {named}, 80.00 %." in said


def test_where_nothing_reached_the_level_the_papers_steps_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claims = (
        Claim("plain", "steps to accuracy", 400, 0.95),
        Claim("jumps", "steps to accuracy", 100, 0.97),
    )
    entry = replace(TINY, claims=claims)
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    rows = {"plain": [0.4, 0.5, 0.5, 0.6, 0.6], "jumps": [0.7, 0.7, 0.8, 0.8, 0.8]}
    summary = summarise(run_set([run(a, s, c, entry) for a, c in rows.items() for s in (1, 2)]))
    said = findings(summary, [judge(claim, summary) for claim in claims])
    assert (
        "At the paper's steps instead, jumps after 100 against plain after 400: +15.00 points of "
        "accuracy; in the paper +2.00 points."
    ) in said


def test_plain_runs_that_are_far_apart_are_said_to_be() -> None:
    near = summary_of({"plain": [[0.9] * 5] * 2, "jumps": HIGH})
    far = summary_of({"plain": [[0.7] * 5] * 2, "jumps": HIGH})
    assert judge(CLAIMS[1], near).limits == []
    assert judge(CLAIMS[1], far).limits == ["our plain is 20.00 points below the paper's"]
    assert "points" not in "".join(judge(CLAIMS[2], far).limits)  # a claim on steps


def test_an_accuracy_is_that_of_the_claims_step() -> None:
    curve = [0.2] * 4 + [0.9] * 6
    found = judge(replace(CLAIMS[1], at=350), summary_of({"plain": LOW, "jumps": [curve, curve]}))
    assert found.ours.values == [0.2, 0.2]
    assert found.gain.values == pytest.approx([-0.3, -0.3])
    assert found.claimed is None  # the paper has no number of plain at that step


# ---- files


def test_merged_runs_are_read_back(tmp_path: Path) -> None:
    runs = every()
    runs[0].traces["plain"].loss[1] = math.nan
    runs[0].traces["plain"].seconds[1] = 1.23456789
    written(tmp_path, runs)
    (tmp_path / "tiny" / ".plain-seed1.json").write_text("half")
    found = gather(tmp_path)
    assert list(found) == ["tiny"]
    path = tmp_path / "tiny.json"
    path.write_text(compact(found["tiny"]))
    back = {(r.arm, r.seed): r for r in expand(path)}
    assert len(back) == len(runs)
    for result in runs:
        other = back[result.arm, result.seed]
        assert other.traces.keys() == result.traces.keys()
        assert other.traces[result.arm].steps == result.traces[result.arm].steps
        assert other.traces[result.arm].accuracy == pytest.approx(
            result.traces[result.arm].accuracy, rel=1e-5
        )
        assert (other.jumps, other.peak) == (result.jumps, result.peak)
    first = back["plain", 1].traces["plain"]
    assert math.isnan(first.loss[1])
    assert first.seconds[1] == 1.2346


def test_runs_that_tune_are_not_results(tmp_path: Path) -> None:
    tuning = every(replace(TINY, budget="paper-tuning"))
    assert gather(written(tmp_path, tuning)) == {}


def test_runs_made_differently_are_not_merged() -> None:
    longer = run("jumps", 2, [0.5] * 5, replace(TINY, batch=6))
    with refuses(FormatError, "plain with seed 1", "jumps with seed 2", "experiment"):
        compact([run("plain", 1, [0.5] * 5), longer])


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda r: r.traces["plain"].loss.pop(), "ragged"),
        (lambda r: r.traces.pop("plain"), "no curve"),
        (lambda r: r.made.pop("budget"), "budget"),
    ],
)
def test_a_damaged_run_is_refused(tmp_path: Path, damage: Any, word: str) -> None:
    result = run("plain", 1, [0.5] * 5)
    damage(result)
    write_result(result, tmp_path / "tiny" / "plain-seed1.json")
    with refuses(FormatError, "plain-seed1.json", word):
        gather(tmp_path)


def test_a_name_that_is_a_path_is_refused(tmp_path: Path) -> None:
    result = replace(run("plain", 1, [0.5] * 5), experiment="../tiny")
    write_result(result, tmp_path / "tiny" / "plain-seed1.json")
    with refuses(FormatError, "../tiny"):
        write_document(tmp_path, tmp_path / "docs")


@pytest.mark.parametrize("text", ["[]", "{", '{"version": 9, "runs": []}', '{"version": 1}'])
def test_a_damaged_merged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "reproduction").mkdir()
    (tmp_path / "reproduction" / "tiny.json").write_text(text)
    with refuses(FormatError, "tiny.json"):
        document(tmp_path)


# ---- the document


def test_the_golden_document(tmp_path: Path) -> None:
    """The text of the first version's numbers; where words change, it is written anew."""
    (tmp_path / "reproduction").mkdir()
    shutil.copy(GOLDEN / "reproduction-v1.json", tmp_path / "reproduction" / "tiny.json")
    assert document(tmp_path) == (GOLDEN / "reproduction-v1.md").read_text()


def test_the_committed_document_is_that_of_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CATALOGUE, "tiny")
    assert document(DOCS) == (DOCS / "reproduction.md").read_text()


def test_a_document_is_made_again_from_its_numbers(tmp_path: Path) -> None:
    results, docs = written(tmp_path / "results", every()), tmp_path / "docs"
    assert write_document(results, docs) == docs / "reproduction.md"
    first = (docs / "reproduction.md").read_bytes()
    assert (docs / "reproduction" / "tiny.png").read_bytes().startswith(b"\x89PNG")
    shutil.rmtree(results)
    for name in ("reproduction.md", "reproduction/tiny.png"):
        (docs / name).unlink()
    write_document(None, docs)
    assert (docs / "reproduction.md").read_bytes() == first
    assert (docs / "reproduction" / "tiny.png").exists()


def test_experiments_without_new_runs_stay(tmp_path: Path) -> None:
    write_document(written(tmp_path / "a", every()), tmp_path / "docs")
    other = replace(TINY, name="other")
    write_document(written(tmp_path / "b", every(other)), tmp_path / "docs")
    text = (tmp_path / "docs" / "reproduction.md").read_text()
    assert text.index("### tiny") < text.index("### other")  # the catalogue's come first


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    runs = [r for r in every() if (r.arm, r.seed) != ("jumps", 2) and r.arm != "one-cycle"]
    write_document(written(tmp_path / "results", runs), tmp_path)
    text = (tmp_path / "reproduction.md").read_text()
    assert "There is no run of jumps with seed 2; one-cycle with seeds 1, 2 and 3." in text


def test_runs_of_an_entry_that_changed_are_said_to_be_old(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = every()
    monkeypatch.setitem(CATALOGUE, "tiny", replace(TINY, batch=6, title="Better words"))
    found = run_set(runs)
    assert found.stale == ("batch",)
    assert (found.entry.batch, found.entry.title) == (5, "Better words")
    monkeypatch.setitem(CATALOGUE, "tiny", TINY)
    assert run_set(runs).stale == ()


def test_quick_runs_say_nothing_about_accuracy(tmp_path: Path) -> None:
    quick = replace(TINY.quick(), evaluate_every=100)
    write_document(written(tmp_path / "results", every(quick, seeds=[1])), tmp_path)
    text = (tmp_path / "reproduction.md").read_text()
    assert "says nothing about accuracy" in text
    assert "--budget quick" in text
    assert not {"## Summary", "### tiny", "reproduced"} & set(text.splitlines())
    assert [p.name for p in (tmp_path / "reproduction").iterdir()] == ["tiny-quick.json"]


def test_pictures_of_histories_are_shown(tmp_path: Path) -> None:
    folder = written(tmp_path / "results", every()) and tmp_path / "reproduction"
    folder.mkdir()
    listed = [{"file": "figure-1.png", "title": "Figure 1", "caption": "Weights change."}]
    (folder / "figures.json").write_text(json.dumps(listed))
    write_document(tmp_path / "results", tmp_path)
    text = (tmp_path / "reproduction.md").read_text()
    assert "![Figure 1](reproduction/figure-1.png)\n\nWeights change.\n" in text
    for bad in ([{"file": "../x.png", "title": "", "caption": ""}], [{"file": "x.png"}], 3):
        (folder / "figures.json").write_text(json.dumps(bad))
        with refuses(FormatError, "figures.json"):
            document(tmp_path)


def test_no_runs_are_an_error(tmp_path: Path) -> None:
    with refuses(InputNotFoundError, "no results"):
        write_document(tmp_path, tmp_path / "docs")
    with refuses(InputNotFoundError, "give a folder of results"):
        write_document(None, tmp_path / "docs")


def test_the_command(tmp_path: Path) -> None:
    results, docs = written(tmp_path / "results", every(seeds=[1])), tmp_path / "docs"
    for folders in ([str(results), str(docs)], [str(docs)]):
        done = CliRunner().invoke(main, folders)
        assert (done.exit_code, done.output) == (0, f"wrote {docs / 'reproduction.md'}\n")
    assert CliRunner().invoke(main, []).exit_code == 2
    failed = CliRunner().invoke(main, [str(tmp_path / "none"), str(docs)])
    assert failed.exit_code == 2
    assert failed.output.startswith("no results of runs in")


def test_without_matplotlib_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = written(tmp_path / "results", every())
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with refuses(MissingExtraError, "matplotlib", "weightcast[plot]"):
        write_document(results, tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


# ---- pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures as they are saved."""
    from matplotlib.figure import Figure

    figures: list[Any] = []
    save = Figure.savefig

    def saved(figure: Figure, *args: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures


def bold(axes: Any, arm: str) -> list[Any]:
    """An arm's lines but for those of every evaluation."""
    (colour,) = {line.get_color() for line in axes.lines if line.get_label() == arm}
    return [
        line
        for line in axes.lines
        if line.get_color() == colour and not line.get_alpha() and line.get_linestyle() != ":"
    ]


def said(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_few_arms_share_a_panel(tmp_path: Path, drawn: list[Any]) -> None:
    save_curves(summarise(run_set(every())), tmp_path / "a.png")
    assert drawn[0].get_suptitle() == "Made up"
    accuracy, loss = drawn[0].axes
    lines = {line.get_label(): line for line in accuracy.lines}
    assert {"plain", "jumps", "one-cycle", "averaging"} <= set(lines)
    end = lines["plain"].get_ydata()[-1]  # of seed 2, of the last four
    assert accuracy.yaxis.get_major_formatter()(end) == "65.3"
    assert accuracy.yaxis_inverted()
    (line,) = bold(loss, "plain")
    assert line.get_ydata()[-1] == pytest.approx(0.347)
    assert [axes.get_ylabel() for axes in (accuracy, loss)] == ["accuracy, %", "loss"]
    assert [axes.get_yscale() for axes in (accuracy, loss)] == ["log", "log"]
    assert loss.xaxis.get_major_formatter()(5000) == "5,000"
    marks = [line.get_xdata()[0] for line in loss.lines if line.get_linestyle() == ":"]
    assert marks == [200, 250]
    dashed = {label for label, line in lines.items() if line.get_linestyle() == "--"}
    assert dashed == {"averaging"}  # which may lie on plain
    assert said(accuracy) == []


def test_many_arms_have_a_panel_each(tmp_path: Path, drawn: list[Any]) -> None:
    others = tuple(Arm(f"arm {i}", (100 + i,)) for i in range(6))
    entry = replace(TINY, name="many", arms=(*TINY.arms, *others))
    runs = [*every(replace(entry, arms=TINY.arms))]
    runs += [run(arm.name, 1, [0.1, 0.5, 0.6, 0.7, 0.65], entry) for arm in others]
    save_curves(summarise(run_set(runs)), tmp_path / "a.png")
    panels = [axes for axes in drawn[0].axes if axes.axison]
    assert [axes.get_title() for axes in panels][:3] == ["jumps", "one-cycle", "arm 0"]
    assert len(panels) == 9  # averaging too; plain and jumps in each
    for name in ("plain", "jumps"):
        (line,) = bold(panels[2], name)
        (alone,) = bold(panels[0], name)
        ends = [lines.get_ydata()[-1] for lines in (line, alone)]
        assert ends[0] - ends[1] == pytest.approx(0.3)  # of seed 1 as the arm, and of all
    assert len(bold(panels[2], "arm 0")) == 1
    marks = [line.get_xdata()[0] for line in panels[3].lines if line.get_linestyle() == ":"]
    assert marks == [101]
    assert panels[3].get_xlim() == (80, 400)
    (legend,) = [axes.get_legend() for axes in drawn[0].axes if axes.get_legend()]
    assert legend.axes not in panels
    assert {"the arm of the panel", "jump points"} < {t.get_text() for t in legend.get_texts()}


def test_the_axes_begin_below_the_lowest_running_median_after_the_first_jump(
    tmp_path: Path, drawn: list[Any]
) -> None:
    curves = {"plain": [0.1, 0.7, 0.9, 0.9, 0.9], "jumps": [0.1, 0.6, 0.8, 0.8, 0.8]}
    summary = summary_of({arm: [curve] for arm, curve in curves.items()})
    summary.arms["averaging"].traces[0].accuracy[:] = [0.1] * 5  # lags behind
    save_curves(summary, tmp_path / "a.png")
    low, _ = drawn[0].axes[0].get_ylim()
    assert low == pytest.approx(1.2 * 40)  # the median of 10, 60 and 80 % at step 200


def test_of_seeds_that_disagree_by_a_collapse_each_has_a_line(
    tmp_path: Path, drawn: list[Any]
) -> None:
    good, bad = [0.5] + [0.98] * 8, [0.5] + [0.96] * 4 + [0.1] * 4
    summary = summary_of({"plain": [good, good], "jumps": [good, bad]})
    save_curves(summary, tmp_path / "a.png")
    accuracy, loss = drawn[0].axes
    for axes in (accuracy, loss):
        assert [len(bold(axes, arm)) for arm in ("plain", "jumps")] == [1, 2]
    assert [line.get_ydata()[-1] for line in bold(accuracy, "jumps")] == pytest.approx([2, 90])
    assert accuracy.get_ylim()[0] < 5
    assert said(accuracy) == ["jumps\noff the axis: 10 % at the end, seed 1"]
    assert said(loss) == []


def test_losses_that_are_not_finite_are_gaps(tmp_path: Path, drawn: list[Any]) -> None:
    runs = every(seeds=[1])
    runs[0].traces["plain"].loss[2:] = [math.inf, math.nan, math.nan]
    runs[1].traces["jumps"].loss[:] = [math.nan] * 5
    save_curves(summarise(run_set(runs)), tmp_path / "a.png")
    (line,) = bold(drawn[0].axes[1], "plain")
    assert [math.isfinite(y) for y in line.get_ydata()] == [True, True, False, False, False]
    assert all(map(math.isfinite, drawn[0].axes[1].get_ylim()))


def test_an_arm_that_collapsed_is_named_and_spares_the_axes(
    tmp_path: Path, drawn: list[Any]
) -> None:
    others = tuple(Arm(f"arm {i}") for i in range(5))
    good = [0.5] + [0.98] * 8
    ends = {1: 0.1, 2: 0.3, 3: 0.2}
    entry = replace(TINY, name="many", arms=(*TINY.arms, *others))
    runs = [run(a.name, 1, good, entry) for a in entry.arms if a.name != "arm 0"]
    runs += [run("arm 0", s, [0.5, 0.9] + [end] * 7, entry) for s, end in ends.items()]
    save_curves(summarise(run_set(runs)), tmp_path / "a.png")
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert said(panels["arm 0"]) == ["off the axis: 10 to 30 % at the end, seeds 1, 2 and 3"]
    assert said(panels["arm 1"]) == []
    assert panels["jumps"].get_ylim()[0] < 5


# ---- what a reviewer found


steps = st.one_of(st.integers(100, 5000).map(float), st.just(math.inf))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(steps, steps), min_size=2, max_size=4), st.booleans())
def test_a_gain_is_judged_as_the_loss_that_it_is_to_the_other(
    pairs: list[tuple[float, float]], fewer: bool
) -> None:
    pairs = pairs if fewer else [(min(a, 5000.0), min(b, 5000.0)) for a, b in pairs]
    one, other = (Spread(dict(enumerate(values))) for values in zip(*pairs, strict=True))
    found = compare(one, other, fewer=fewer)
    assert found is not None
    assert found == -(compare(other, one, fewer=fewer) or 0)


def test_an_arm_that_is_slower_in_every_seed_is_slower() -> None:
    plain = Spread(dict.fromkeys(range(3), 1000.0))
    assert compare(Spread({0: 2000.0, 1: 3000.0, 2: 4000.0}), plain, fewer=True) == -1


def test_a_run_that_diverged_is_said_to_have(tmp_path: Path) -> None:
    runs = every()
    event = "step 300: training diverged: weights are not finite"
    runs = [replace(r, events=[event]) if r.arm == "jumps" else r for r in runs]
    write_document(written(tmp_path / "results", runs), tmp_path)
    assert "jumps diverged with seeds 1, 2 and 3: " in (tmp_path / "reproduction.md").read_text()


@pytest.mark.parametrize("place", ["experiment", "made"])
def test_a_budget_from_a_file_does_not_become_a_path(place: str, tmp_path: Path) -> None:
    result = every()[0]
    made = json.loads(json.dumps(result.made))
    (made["experiment"] if place == "experiment" else made)["budget"] = "/../../evil"
    write_result(replace(result, made=made), tmp_path / "tiny" / "plain-seed1.json")
    with pytest.raises(FormatError, match="budget"):
        gather(tmp_path)
