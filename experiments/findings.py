"""What an experiment's numbers say, in plain sentences, good or bad."""

from __future__ import annotations

import math
from collections.abc import Iterator

from weightcast.experiments.claims import UNCLEAR, Judged, compare
from weightcast.experiments.experiment import Claim
from weightcast.experiments.summary import BEST, ArmSummary, Spread, Summary, level_name
from weightcast.experiments.wording import change, count, listed, percent, points, spread

Groups = dict[int | None, list[str]]


def findings(summary: Summary, judged: list[Judged]) -> list[str]:
    """What the numbers say, good or bad."""
    texts = [*_claims(judged), *_our_plain(summary, judged)]
    if plain := summary.arms.get("plain"):
        texts += [*_against(summary, plain)]
    return [
        *texts,
        *_best(summary),
        *_on_schedule(summary),
        *_taken_back(summary),
        *_diverged(summary),
    ]


def _claims(judged: list[Judged]) -> Iterator[str]:
    """What became of the claims on arms."""
    groups: dict[str, list[str]] = {}
    for one in judged:
        if one.claim.arm != "plain":
            groups.setdefault(one.verdict, []).append(f"{one.claim.arm} ({what(one.claim)})")
    if groups:
        each = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in groups.items())
        yield f"The paper's claims on other arms than plain: {each}."


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


def what(claim: Claim) -> str:
    """What a claim is about.

    Examples
    --------
    >>> what(Claim("plain", "steps to accuracy", 6000, 0.9911))
    'steps to 99.11 %'
    >>> what(Claim("plain", "accuracy", 0.95, 15_000))
    'accuracy at step 15,000'
    """
    if claim.measure == "steps to accuracy":
        return f"steps to {level_name(claim.at)}"
    if claim.measure == "steps to plain's best":
        return claim.measure
    return f"{claim.measure} at step {count(claim.at)}"


def _against(summary: Summary, plain: ArmSummary) -> Iterator[str]:
    """Every arm against plain, in groups."""
    sooner, higher = Groups(), Groups()
    for arm in summary.arms.values():
        if arm is plain:
            continue
        steps, theirs = arm.targets[BEST].steps, plain.targets[BEST].steps
        share = steps.of(theirs)
        if share.by_seed:
            saved = "never" if share.median is None else change(1 - share.median)
            group = compare(steps, theirs, fewer=True)
            sooner.setdefault(group, []).append(f"{arm.name} ({saved})")
        gained = arm.final.less(plain.final).median
        if gained is not None:
            group = compare(arm.final, plain.final, fewer=False)
            higher.setdefault(group, []).append(f"{arm.name} ({points(gained)})")
    if sooner:
        each = _in_groups(sooner, "sooner", "later or never")
        yield f"Steps to {BEST}, against plain of the same seed: {each}."
    if higher:
        yield f"Accuracy at the end, against plain: {_in_groups(higher, 'higher', 'lower')}."


def _in_groups(groups: Groups, better: str, worse: str) -> str:
    words = {1: better, 0: UNCLEAR, -1: worse, None: "one seed, not judged"}
    return "; ".join(f"{word}: {', '.join(groups[k])}" for k, word in words.items() if k in groups)


def _best(summary: Summary) -> Iterator[str]:
    """Which arm did best of all, and whether it needs a forecaster."""
    jumping = {arm.name for arm in summary.set.entry.arms if arm.jumps}
    first = max(summary.arms.values(), key=lambda arm: arm.final.median or 0)
    how = "it jumps" if first.name in jumping else "without a forecaster"
    yield (f"Most accurate at the end: {first.name}, {percent(first.final.median or 0)} ({how}).")
    quick = min(summary.arms.values(), key=lambda a: _middle(a.targets[BEST].steps))
    if quick.targets[BEST].steps.median is not None:
        how = "it jumps" if quick.name in jumping else "without a forecaster"
        steps = count(_middle(quick.targets[BEST].steps))
        yield f"Soonest at {BEST}: {quick.name}, after {steps} steps ({how})."


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
    gained = both.final.less(tuned.final).median
    if gained is not None:
        yield f"On top of one-cycle, jumps {words} ({points(gained)} at the end)."


def _taken_back(summary: Summary) -> Iterator[str]:
    for arm in summary.set.entry.arms:
        found = summary.arms.get(arm.name)
        if arm.jumps and found and found.jumps.low < len(arm.jumps):
            yield (
                f"Of the {len(arm.jumps)} jumps of {arm.name}, {spread(found.jumps, count)} stayed."
            )


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
