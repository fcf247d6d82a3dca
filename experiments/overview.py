"""All experiments side by side: the document's first table, and what they say together."""

from __future__ import annotations

from collections import Counter

from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.claims import UNCLEAR, compare, judge
from weightcast.experiments.sections import command
from weightcast.experiments.summary import BEST, Spread, Summary
from weightcast.experiments.wording import change, count, decimals, percent, spread, table


def summary_table(every: list[Summary]) -> str:
    """A row an experiment."""
    columns = ["experiment", "data", "seeds", "accuracy at the end: plain", "of jumps"]
    columns += ["of one-cycle", f"steps to {BEST}: jumps", "one-cycle", "most accurate"]
    columns += ["the paper's claims"]
    rows = []
    for summary in every:
        arms, entry = summary.arms, summary.set.entry
        first = max(arms.values(), key=lambda arm: arm.final.median or 0)
        ends = [
            spread(arms[name].final, percent) if name in arms else ""
            for name in ("plain", "jumps", "one-cycle")
        ]
        shares = [against_plain(summary, name) for name in ("jumps", "one-cycle")]
        verdicts = Counter(
            judge(claim, summary).verdict for claim in entry.claims if claim.arm != "plain"
        )
        said = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()))
        link = f"[{entry.name}](#{entry.name})"
        seeds = str(len(summary.seeds))
        rows.append([link, summary.set.data, seeds, *ends, *shares, first.name, said])
    return table(columns, rows)


def against_plain(summary: Summary, name: str) -> str:
    """Steps to plain's best as a change to plain's, over the seeds."""
    if name not in summary.arms or "plain" not in summary.arms:
        return ""
    theirs = summary.arms["plain"].targets[BEST].steps
    changes = summary.arms[name].targets[BEST].steps.of(theirs)
    less = Spread({seed: share - 1 for seed, share in changes.by_seed.items()})
    return spread(less, lambda more: change(-more), "never")


def overall(every: list[Summary]) -> list[str]:
    """What all experiments together say."""
    verdicts = Counter(
        judge(claim, summary).verdict
        for summary in every
        for claim in summary.set.entry.claims
        if claim.arm != "plain"
    )
    texts = []
    if verdicts:
        texts.append(
            f"The paper's {verdicts.total()} claims on other arms than plain: "
            f"{', '.join(f'{number} {verdict}' for verdict, number in sorted(verdicts.items()))}."
        )
    rivals = (("jumps", "plain"), ("one-cycle", "jumps"), ("averaging", "jumps"))
    for one, other in rivals:
        both = [s.arms for s in every if one in s.arms and other in s.arms]
        found = Counter(compare(a[one].final, a[other].final, fewer=False) for a in both)
        if both:
            texts.append(
                f"{one} against {other}, accuracy at the end: higher in {found[1]}, lower in "
                f"{found[-1]}, {UNCLEAR} in {found[0]} of {len(both)} experiments"
                f"{f', and {found[None]} not judged' if found[None] else ''}."
            )
    return texts


def quick_table(every: list[Summary]) -> str:
    """What ran at the quick budget: that losses are finite, and that jumps were taken."""
    columns = ["experiment", "data", "steps", "batch", "seeds", "arms", "jumps", "loss at the end"]
    rows = []
    for summary in every:
        entry, arms = summary.set.entry, list(summary.arms.values())
        loss = Spread(dict(enumerate(v for arm in arms for v in arm.loss.values)))
        jumps = sum(int(sum(arm.jumps.values)) for arm in arms)
        steps = f"{entry.steps:,} of {_full(entry.name)}"
        rows.append(
            [
                *(f"`{command(summary)}`", summary.set.data, steps, str(entry.batch)),
                *(str(len(summary.seeds)), str(len(arms)), count(jumps)),
                spread(loss, decimals, "not finite"),
            ]
        )
    return table(columns, rows)


def _full(name: str) -> str:
    return f"{CATALOGUE[name].steps:,}" if name in CATALOGUE else "all"
