"""What all experiments together say: of the paper's claims, and of simpler ways to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from weightcast.experiments.claims import Judged, judge, what
from weightcast.experiments.comparing import UNCLEAR, Groups, compare, in_groups
from weightcast.experiments.findings import at_the_papers_steps
from weightcast.experiments.sections import gained_here
from weightcast.experiments.summary import Spread, Summary
from weightcast.experiments.wording import change, listed, points, spread

_RIVALS = (("jumps", "plain"), ("one-cycle", "jumps"), ("averaging", "jumps"))


def in_short(long: list[Summary], quick: list[Summary]) -> list[str]:
    """What all experiments together say.

    Parameters
    ----------
    long, quick : list of Summary
        Of the paper's length, and of the quick budget.

    Returns
    -------
    list of str
        Sentences in Markdown.
    """
    names: dict[str, list[str]] = {}
    for summary in long:
        names.setdefault(summary.set.data, []).append(summary.set.entry.name)
    on = "; ".join(f"{data} ({', '.join(those)})" for data, those in names.items())
    texts = [f"**Data**: {on}.", *_claims(long)]
    tested = {summary.set.entry.name for summary in long}
    if short := [s.set.entry.name for s in quick if s.set.entry.name not in tested]:
        texts.append(f"**Not tested**, run at a small part of their length: {listed(short)}.")
    texts += [text for one, other in _RIVALS for text in _rivals(long, one, other)]
    texts += _losses(long)
    return texts + [text for summary in long for text in _forecasters(summary)]


def _claims(every: list[Summary]) -> Iterator[str]:
    """The paper's claims on other arms than plain, by what became of them."""
    groups: dict[str, list[str]] = {}
    for summary in every:
        name = summary.set.entry.name
        for claim in summary.set.entry.claims:
            if claim.arm != "plain":
                judged = judge(claim, summary)
                text = f"{name}, {claim.arm}, {what(claim)}{_sizes(summary, judged)}"
                groups.setdefault(judged.verdict, []).append(text)
    order = ("reproduced", "not reproduced", UNCLEAR)
    for verdict in sorted(groups, key=lambda v: (order.index(v) if v in order else 9, v)):
        name = "reproduced, in direction" if verdict == "reproduced" else verdict
        yield f"**{name[0].upper()}{name[1:]}**: {'; '.join(groups[verdict])}."


def _sizes(summary: Summary, judged: Judged) -> str:
    """What was gained here and in the paper, in parentheses."""
    here = "" if judged.undecided else gained_here(judged)
    texts = [f"here {here}"] if here else []
    if judged.claimed is not None:
        show = change if judged.claim.measure.startswith("steps") else points
        texts.append(f"the paper {show(judged.claimed)}")
    if (found := at_the_papers_steps(summary, judged)) is not None:
        plain, gained = found
        texts.append(
            f"accuracy at the paper's steps: here {spread(gained, points)}, the paper "
            f"{points(judged.claim.at - plain.at)}"
        )
    texts += judged.limits
    return f" ({'; '.join(texts)})" if texts else ""


def _rivals(every: list[Summary], one: str, other: str) -> Iterator[str]:
    """Two arms, by their accuracy at the end, where one-cycle was compared too."""
    groups = Groups()
    for summary in every:
        names = {arm.name for arm in summary.set.entry.arms}
        if "one-cycle" in names and one in summary.arms and other in summary.arms:
            ends = summary.arms[one].final, summary.arms[other].final
            _put(groups, summary.set.entry.name, *ends)
    if groups:
        each = in_groups(groups, "higher", "lower")
        yield f"**{one} against {other}**, accuracy at the end: {each}."


def _losses(every: list[Summary]) -> Iterator[str]:
    """What jumps do to the loss: it may rise where the accuracy does."""
    groups = Groups()
    for summary in every:
        names = {arm.name for arm in summary.set.entry.arms}
        if {"one-cycle", "jumps"} <= names and {"jumps", "plain"} <= summary.arms.keys():
            ours, theirs = (summary.arms[name].loss for name in ("jumps", "plain"))
            share = ours.of(theirs).median
            if share is not None:
                group = compare(ours, theirs, fewer=True)
                text = f"{summary.set.entry.name} ({change(1 - share)})"
                groups.setdefault(None if group is None else -group, []).append(text)
    if groups:
        each = in_groups(groups, "higher", "lower")
        yield f"**jumps against plain**, loss at the end: {each}."


def _forecasters(summary: Summary) -> Iterator[str]:
    """Other forecasts in the place of Introspection's: against its jumps, at the same steps."""
    arms = {arm.name: arm for arm in summary.set.entry.arms if arm.name in summary.arms}
    ours, groups = arms.pop("jumps", None), Groups()
    for name, arm in arms.items():
        if ours and arm == replace(ours, name=name, forecaster=arm.forecaster):
            _put(groups, name, summary.arms[name].final, summary.arms["jumps"].final)
    if groups:
        each = in_groups(groups, "higher", "lower")
        yield (
            "**Other forecasts against Introspection's**, each to its own horizon, put in place at "
            f"the same steps ({summary.set.entry.name}), accuracy at the end: {each}."
        )


def _put(groups: Groups, name: str, ours: Spread, theirs: Spread) -> None:
    """Put a comparison into the group that it belongs to."""
    gained = ours.less(theirs).median
    if gained is not None:
        group = compare(ours, theirs, fewer=False)
        groups.setdefault(group, []).append(f"{name} ({points(gained)})")
