"""What an experiment's numbers say, in plain sentences, good or bad."""

from __future__ import annotations

import math
from collections.abc import Iterator

from weightcast.experiments.claims import Judged, accuracy_at, what
from weightcast.experiments.comparing import Groups, compare, falls, in_groups, race
from weightcast.experiments.experiment import Claim
from weightcast.experiments.summary import BEST, ArmSummary, Spread, Summary
from weightcast.experiments.wording import change, count, listed, percent, points, spread

_TIE = 1e-9


def findings(summary: Summary, judged: list[Judged]) -> list[str]:
    """What the numbers say, good or bad."""
    texts = [*_our_plain(summary, judged), *_at_other_steps(summary, judged)]
    if "plain" in summary.arms:
        texts += [*_steps(summary), *_accuracies(summary), *_losses(summary)]
    return [
        *texts,
        *_best(summary),
        *_on_schedule(summary),
        *_taken_back(summary),
        *_fallen(summary),
        *_diverged(summary),
    ]


def _our_plain(summary: Summary, judged: list[Judged]) -> Iterator[str]:
    """Where our plain runs stand to the paper's: it limits what jumps can gain."""
    for one in judged:
        if one.claim.arm != "plain" or one.verdict in ("not run", "ours is the same"):
            continue
        steps = one.claim.measure.startswith("steps")
        paper = (count if steps else percent)(one.claim.value)
        ours = spread(one.ours, count if steps else percent)
        where = f"ours ({summary.set.data})"
        yield f"Plain, {what(one.claim)}: the paper has {paper}; {where}: {ours}."


def _at_other_steps(summary: Summary, judged: list[Judged]) -> Iterator[str]:
    """Where nothing reached the paper's level: what arms had at the paper's steps."""
    for one in judged:
        if (found := at_the_papers_steps(summary, one)) is not None:
            claim, plain, gained = one.claim, *found
            yield (
                f"At the paper's steps instead, {claim.arm} after {count(claim.value)} against "
                f"plain after {count(plain.value)}: {spread(gained, points)} of accuracy; in the "
                f"paper {points(claim.at - plain.at)}."
            )


def at_the_papers_steps(summary: Summary, judged: Judged) -> tuple[Claim, Spread] | None:
    """Of a level that nothing reached: the claim on plain, and the gain at the steps of both."""
    claim, claims = judged.claim, summary.set.entry.claims
    plain = next((c for c in claims if c.arm == "plain" and c.measure == claim.measure), None)
    if judged.verdict != "level not reached, nor by plain" or plain is None:
        return None
    ours = accuracy_at(summary.arms[claim.arm].traces, claim.value)
    return plain, ours.less(accuracy_at(summary.arms["plain"].traces, plain.value))


def _steps(summary: Summary) -> Iterator[str]:
    """Every arm's way to plain's best accuracy."""
    groups, early = Groups(), list[str]()
    for name, arm in _others(summary):
        steps, theirs = race(summary, name)
        seeds = len(arm.targets[BEST].steps.by_seed)
        if left_out := seeds - len(steps.by_seed):
            early.append(f"{name} ({left_out} of {seeds} seeds)")
        if steps.of(theirs).by_seed:
            group = compare(steps, theirs, fewer=True)
            alike = _as_one_cycle(summary, name, steps)
            words = _changes(steps.of(theirs), whole=group == 0)
            groups.setdefault(group, []).append(f"{name} ({words}{alike})")
    if groups:
        each = in_groups(groups, "sooner", "later or never")
        yield f"Steps to {BEST}, against plain of the same seed: {each}."
    if early:
        yield f"Left out of that, as plain was there before the first jump: {', '.join(early)}."


def _accuracies(summary: Summary) -> Iterator[str]:
    plain, groups = summary.arms["plain"], Groups()
    for name, arm in _others(summary):
        gained = arm.final.less(plain.final)
        if gained.median is not None:
            group = compare(arm.final, plain.final, fewer=False)
            size = spread(gained, points) if group == 0 else points(gained.median)
            size += ", higher in all seeds" if group == 0 and gained.low > 0 else ""
            size += ", lower in all seeds" if group == 0 and gained.high < 0 else ""
            groups.setdefault(group, []).append(f"{name} ({size})")
    if groups:
        yield f"Accuracy at the end, against plain: {in_groups(groups, 'higher', 'lower')}."


def _losses(summary: Summary) -> Iterator[str]:
    plain, groups = summary.arms["plain"], Groups()
    for name, arm in _others(summary):
        share = arm.loss.of(plain.loss)
        if share.by_seed:
            group = compare(arm.loss, plain.loss, fewer=True)
            words = _changes(share, whole=group == 0, never="not finite")
            groups.setdefault(group, []).append(f"{name} ({words})")
    if groups:
        yield f"Loss at the end, against plain: {in_groups(groups, 'lower', 'higher')}."


def _others(summary: Summary) -> Iterator[tuple[str, ArmSummary]]:
    """The arms beside plain."""
    return ((name, arm) for name, arm in summary.arms.items() if name != "plain")


def _changes(share: Spread, *, whole: bool, never: str = "never") -> str:
    """Shares of plain's as changes; with the range where it decides that there is no difference."""
    less = Spread({seed: value - 1 for seed, value in share.by_seed.items()})
    if not whole:
        return never if less.median is None else change(-less.median)
    return spread(less, lambda more: change(-more) if math.isfinite(more) else never)


def _as_one_cycle(summary: Summary, name: str, steps: Spread) -> str:
    """That an arm which jumps under one-cycle got there before its first jump."""
    arm = next((arm for arm in summary.set.entry.arms if arm.name == name), None)
    if arm is None or not arm.jumps or arm.schedule == "own":
        return ""
    early = sum(step < arm.jumps[0] for step in steps.values)
    return f", before its first jump in {early} of {len(steps.values)} seeds" if early else ""


def _best(summary: Summary) -> Iterator[str]:
    """Which arms did best of all, and whether they need a forecaster."""
    ends = {name: arm.final.median or 0 for name, arm in summary.arms.items()}
    best = max(ends.values())
    yield f"Most accurate at the end: {_named(summary, ends, best)}, {percent(best)}."
    steps = {name: _middle(arm.targets[BEST].steps) for name, arm in summary.arms.items()}
    soonest = min(steps.values())
    if soonest < math.inf:
        names = _named(summary, steps, soonest, soonest)
        yield f"Soonest at {BEST}: {names}, after {count(soonest)} steps."


def _named(summary: Summary, of: dict[str, float], value: float, step: float = math.inf) -> str:
    """The arms that have a value, and whether they had jumped by a step."""
    first = {arm.name: arm.jumps[0] for arm in summary.set.entry.arms if arm.jumps}
    texts = []
    for name in (name for name, one in of.items() if abs(one - value) <= _TIE):
        how = "with a forecaster" if name in first else "without a forecaster"
        texts.append(f"{name} ({'before its first jump' if step < first.get(name, 0) else how})")
    return listed(texts)


def _on_schedule(summary: Summary) -> Iterator[str]:
    """Whether jumps add anything to a tuned schedule."""
    tuned, both = (summary.arms.get(name) for name in ("one-cycle", "one-cycle + jumps"))
    if tuned is None or both is None:
        return
    found = compare(both.final, tuned.final, fewer=False)
    words = {
        1: "make it more accurate",
        0: "make no difference beyond the range over seeds",
        -1: "make it less accurate",
        None: "were run with one seed only, and are not judged",
    }[found]
    gained = both.final.less(tuned.final)
    if gained.median is not None:
        yield f"On top of one-cycle, jumps {words}: {spread(gained, points)} at the end."


def _taken_back(summary: Summary) -> Iterator[str]:
    for arm in summary.set.entry.arms:
        found = summary.arms.get(arm.name)
        if arm.jumps and found and found.jumps.low < len(arm.jumps):
            made = spread(found.jumps, count)
            yield f"Of {arm.name}, {made} of {len(arm.jumps)} jumps were made and stayed."


def _fallen(summary: Summary) -> Iterator[str]:
    """Runs that ended far below what they once had."""
    for name, arm in summary.arms.items():
        if fallen := falls(arm):
            seeds = (
                f"seed {seed}, {percent(arm.best[seed])} to {percent(arm.final[seed])}"
                for seed in fallen
            )
            yield f"**{name} fell far below its own best**: {'; '.join(seeds)}."


def _diverged(summary: Summary) -> Iterator[str]:
    """Runs that came to an end before their last step."""
    found: dict[str, list[int]] = {}
    for run in summary.set.runs:
        if run.events and "training diverged" in run.events[-1]:
            found.setdefault(run.arm, []).append(run.seed)
    for arm, seeds in found.items():
        yield (
            f"{arm} diverged with seed{'s'[: len(seeds) > 1]} {listed(seeds)}: weights, or their "
            "forecast, were not finite any more, and the run ended there."
        )


def _middle(numbers: Spread) -> float:
    middle = numbers.median
    return math.inf if middle is None else middle
