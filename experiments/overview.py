"""All experiments side by side, in tables; and the paper's figures, with where they are here."""

from __future__ import annotations

from collections import Counter

from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.claims import judge, what
from weightcast.experiments.comparing import race
from weightcast.experiments.experiment import Claim
from weightcast.experiments.sections import command
from weightcast.experiments.summary import BEST, ArmSummary, Spread, Summary
from weightcast.experiments.wording import change, count, decimals, percent, spread, table


def summary_table(every: list[Summary]) -> str:
    """A row an experiment."""
    columns = ["experiment", "data", "seeds"]
    columns += [f"accuracy at the end: {name}" for name in ("plain", "jumps", "one-cycle")]
    columns += [f"steps to {BEST}: {name}" for name in ("jumps", "one-cycle")]
    columns += ["most accurate", "the paper's claims"]
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
        said = "; ".join(f"{verdict} ({number})" for verdict, number in sorted(verdicts.items()))
        link = f"[{entry.name}](#{entry.name})"
        seeds = str(len(summary.seeds))
        rows.append([link, summary.set.data, seeds, *ends, *shares, first.name, said])
    return table(columns, rows)


def against_plain(summary: Summary, name: str) -> str:
    """Steps to plain's best as a change to plain's, over the seeds that decide it."""
    if name not in summary.arms or "plain" not in summary.arms:
        return ""
    ours, theirs = race(summary, name)
    less = Spread({seed: share - 1 for seed, share in ours.of(theirs).by_seed.items()})
    text = spread(less, lambda more: change(-more))
    seeds = len(summary.arms[name].targets[BEST].steps.by_seed)
    decide = len(ours.by_seed)
    return f"{text} ({decide} of {seeds} seeds)".lstrip() if decide < seeds else text


def quick_table(every: list[Summary]) -> str:
    """What ran at the quick budget: that losses are finite, and that jumps were taken."""
    columns = ["experiment", "data", "steps", "batch", "seeds", "arms", "jumps"]
    columns += ["loss at the end: plain", "jumps", "the paper's claims, not tested"]
    rows = []
    for summary in every:
        entry, arms = summary.set.entry, summary.arms
        jumps = sum(int(sum(arm.jumps.values)) for arm in arms.values())
        full = CATALOGUE.get(entry.name)
        steps = f"{entry.steps:,} of {full.steps if full else entry.steps:,}"
        rows.append(
            [
                *(f"`{command(summary)}`", summary.set.data, steps, str(entry.batch)),
                *(str(len(summary.seeds)), str(len(arms)), count(jumps)),
                *(_loss(arms.get(name)) for name in ("plain", "jumps")),
                "; ".join(map(_claimed, full.claims if full else ())),
            ]
        )
    return table(columns, rows)


def figures_table(long: list[Summary], quick: list[Summary], others: list[str]) -> str:
    """The paper's figures and where they are here, if any: `others` are those of weights."""
    made = {summary.set.entry.name for summary in long}
    ran = {summary.set.entry.name for summary in quick}
    rows = [[title.removeprefix("Figures ").removeprefix("Figure "), "above"] for title in others]
    for entry in CATALOGUE.values():
        if entry.figures and entry.name in made | ran:
            link, none = f"[{entry.name}](#{entry.name})", "none: it ran at the quick budget only"
            rows.append([f"{entry.figures}: {entry.title}", link if entry.name in made else none])
    rows.sort(key=lambda row: int("".join(c if c.isdigit() else " " for c in row[0]).split()[0]))
    return table(["figure of the paper", "here"], rows) if rows else ""


def _loss(arm: ArmSummary | None) -> str:
    return "" if arm is None else spread(arm.loss, decimals, "not finite")


def _claimed(claim: Claim) -> str:
    """A claim in a few words.

    Examples
    --------
    >>> _claimed(Claim("jumps", "steps to accuracy", 28_000, 0.857))
    'jumps, steps to 85.7 %: 28,000'
    """
    show = count if claim.measure.startswith("steps") else percent
    return f"{claim.arm}, {what(claim)}: {show(claim.value)}"
