"""An experiment's part of the document: protocol, tables, and what they say in plain sentences."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath

from weightcast.experiments.building import RISE
from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.claims import Judged, judge, what
from weightcast.experiments.experiment import Experiment
from weightcast.experiments.findings import findings
from weightcast.experiments.summary import BEST, Spread, Summary
from weightcast.experiments.tuning import PEAKS
from weightcast.experiments.wording import (
    change,
    count,
    decimals,
    listed,
    percent,
    points,
    spread,
    table,
)


def section(summary: Summary) -> str:
    """The whole part of an experiment, in Markdown."""
    entry = summary.set.entry
    figures = f", figure{'s'[: ' ' in entry.figures]} {entry.figures}" if entry.figures else ""
    parts = [
        f"### {entry.name}",
        f"**{entry.title}**{f' ({entry.paper}{figures})' if entry.paper else ''}.",
        protocol(summary),
        *([bullets(entry.notes)] if entry.notes else []),
        *gaps(summary),
        f"![Accuracy over training: {entry.name}](reproduction/{entry.folder}.png)",
        arms_table(summary),
    ]
    judged = [judge(claim, summary) for claim in entry.claims]
    if judged:
        parts.append(f"What the paper says, beside ours:\n\n{claims_table(judged)}")
    parts.append(bullets(findings(summary, judged)))
    if entry.name in CATALOGUE:
        parts.append(f"```console\n$ {command(summary)}\n```")
    return "\n\n".join(parts)


def protocol(summary: Summary) -> str:
    """What was run, in a few sentences."""
    entry = summary.set.entry
    updates, rate = entry.updates, entry.updates.rate
    options = "".join(f", {name} {value}" for name, value in sorted(updates.options.items()))
    decay = {
        "constant": "",
        "inv": f" times (1 + {rate.gamma:g} step)^-{rate.power:g}",
        "staircase": f" times {rate.gamma:g} every {rate.every:,} steps",
    }[rate.kind]
    peaks = {run.peak for run in summary.set.runs if run.peak is not None}
    edge = ", the largest that was tried" if peaks == {max(PEAKS) * updates.lr} else ""
    sets = dict.fromkeys(arm.jumps for arm in entry.arms if arm.jumps)
    texts = [
        f"Data: {summary.set.data}.",
        f"{updates.name}, learning rate {updates.lr:g}{decay}{options}; batches of {entry.batch}; "
        f"{entry.steps:,} steps, evaluated every {entry.evaluate_every:,}.",
        *([f"Jumps after steps {jump_sets(sets)}."] if sets else []),
        *(
            [
                f"Tuned peak of one-cycle: {listed(f'{p:g}' for p in sorted(peaks))}{edge}, at "
                f"step {round(RISE * entry.steps):,}."
            ]
            if peaks
            else []
        ),
        f"Seed{'s'[: len(summary.seeds) > 1]} {listed(summary.seeds)}.",
    ]
    return " ".join(texts)


def jump_sets(sets: Mapping[tuple[int, ...], None]) -> str:
    """Jump points of the arms in words."""
    return "; or ".join(listed(f"{point:,}" for point in jumps) for jumps in sets)


def gaps(summary: Summary) -> Iterator[str]:
    """What is missing, or out of date."""
    if summary.missing:
        lacking = (
            f"{arm} with seed{'s'[: len(seeds) > 1]} {listed(seeds)}"
            for arm, seeds in summary.missing.items()
        )
        yield f"**Not complete.** There is no run of {'; '.join(lacking)}."
    if summary.set.stale:
        yield (
            "**Out of date.** Since these runs were made, the catalogue has changed: "
            f"{listed(summary.set.stale)}."
        )


def arms_table(summary: Summary) -> str:
    """Every arm: medians over the seeds, and their ranges."""
    targets = [t for t in next(iter(summary.arms.values())).targets if t != BEST]
    forecasts = any(arm.forecast_seconds.high for arm in summary.arms.values())
    columns = ["arm", "jumps", "accuracy at the end", "best accuracy", "loss at the end"]
    columns += [f"steps to {BEST}", "processor s to it", *(f"steps to {t}" for t in targets)]
    columns += ["processor s in all", *(["forecasts, s by the clock"] if forecasts else [])]
    rows = []
    for arm in summary.arms.values():
        row = [
            arm.name,
            spread(arm.jumps, count) if arm.jumps.high else "",
            spread(arm.final, percent),
            spread(arm.best, percent),
            spread(arm.loss, decimals, "not finite"),
            spread(arm.targets[BEST].steps, count),
            spread(Spread(_only_median(arm.targets[BEST].seconds)), decimals, ""),
            *(spread(arm.targets[target].steps, count) for target in targets),
            "as plain" if arm.name == "averaging" else decimals(arm.seconds.median or 0),
        ]
        spent = arm.forecast_seconds
        rows.append([*row, *([decimals(spent.median or 0) if spent.high else ""] * forecasts)])
    return table(columns, rows)


def claims_table(judged: list[Judged]) -> str:
    """The paper's numbers beside ours."""
    columns = ["arm", "what", "paper", "ours", "our plain", "gain, paper", "gain, ours", "verdict"]
    rows = []
    for one in judged:
        claim, steps = one.claim, one.claim.measure.startswith("steps")
        show, gained = (count, change) if steps else (percent, points)
        row = [claim.arm, what(claim), show(claim.value), spread(one.ours, show)]
        if claim.arm == "plain":
            rows.append([*row, "", "", "", one.verdict])
            continue
        size = "" if one.claimed is None else gained(one.claimed)
        verdict = "; ".join([one.verdict, *one.limits])
        rows.append([*row, spread(one.plain, show), size, gained_here(one), verdict])
    return table(columns, rows)


def gained_here(judged: Judged) -> str:
    """What an arm gained over plain; steps that are never reached count as the worst."""
    gain = judged.gain
    if not gain.by_seed:
        return ""
    if not judged.claim.measure.startswith("steps"):
        return spread(gain, points)
    losses = Spread({seed: -value for seed, value in gain.by_seed.items()})
    text = spread(losses, lambda value: change(-value))
    seeds = len(judged.ours.by_seed)
    return f"{text} ({len(gain.by_seed)} of {seeds} seeds)" if judged.undecided else text


def command(summary: Summary) -> str:
    """How to run it again."""
    entry: Experiment = summary.set.entry
    texts = [f"weightcast reproduce {entry.name} --data DATA --seeds {len(summary.seeds)}"]
    texts += ["--budget quick"] * (entry.budget == "quick")
    there = [arm.name for arm in entry.arms if arm.name in summary.arms]
    if len(there) < len(entry.arms):
        texts.append(f"--arms {shlex.quote(','.join(there))}")
    for arm in entry.arms:
        given = str(arm.forecaster).split(" sha256:")[0]
        if arm.name in summary.set.own and arm.name in (given, PurePath(given).stem):
            texts.append(f"--forecaster {shlex.quote(given)}")
    return " ".join(texts)


def bullets(texts: tuple[str, ...] | list[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {text}" for text in texts)


def _only_median(numbers: Spread) -> dict[int, float]:
    """The median alone; nothing if it is infinite."""
    return {} if numbers.median is None else {0: numbers.median}
