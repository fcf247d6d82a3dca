"""The document of weight-update skipping: tables, pictures, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weightcast.experiments.sections import bullets
from weightcast.experiments.summary import Spread
from weightcast.experiments.wording import decimals, listed, percent, points, spread, table
from weightcast.experiments.wus_figure import save_curves
from weightcast.experiments.wus_findings import (
    PAPER,
    Compared,
    compared,
    control_name,
    overall,
    sentences,
    signed,
)
from weightcast.experiments.wus_numbers import Runs, gather, read, runs_of, write
from weightcast.experiments.wus_runs import FOLDER
from weightcast.experiments.wus_settings import ARMS
from weightcast.store import InputNotFoundError
from weightcast.store.extras import require_matplotlib
from weightcast.store.output import write_text

_DATA = {
    "fashion-32": "Fashion-MNIST, padded to 32 x 32 pixels of three channels",
    "cifar10-32": "CIFAR-10",
    "cifar100-32": "CIFAR-100",
}

_HOW = """\
Safayenikoo and Akturk ([arXiv 2012.02792](https://arxiv.org/abs/2012.02792)) leave weights alone
while accuracy gains little, and go on training biases. We could read the abstract only: the rule,
its thresholds and the lengths are ours, see [skipping.md](skipping.md). So this is a study of the
idea, not of their program.

All arms of a seed start from the same weights and see the same batches. **plain** is SGD with
momentum 0.9 and weight decay 5e-4 at a constant learning rate. **LR** is a schedule: a tenth after
40 % of the steps, a hundredth after 80 %. **WUS** skips weight updates by a rule that is fed with
the accuracy on training images that are held out from all arms; it never sees a test image. Biases
and batch norm are trained throughout.

The rule is bolder than the default of `UpdateSkipper`, a gain below 0.001 over three evaluations:
tried first, on one seed of AlexNet, that skipped nothing without a schedule and 15 % of the updates
with one. These runs were thrown away; the plain ones of that seed are among those below.

Skipping is cheaper, and so is stopping early. **plain stopped at the same cost** is where plain was
when it had cost what WUS did in all: with a constant learning rate that is a shorter run. For the
schedule this is a run of its own, **shorter + LR**, whose whole schedule is shorter.

Processor seconds are of training on one thread, with the evaluations on held-out images that
WUS needs, and without those on test images; wall seconds are of the same by the clock. Other work
ran on the machine. So the cost that the comparisons use is counted in full steps: a run's processor
seconds over those of one of *its own* steps that update all. The recorder's own process, which
writes the history of the arms that skip with seed 0, is in no column.

Numbers are medians over the seeds, with their range. Differences are between runs of a seed. One is
beyond the range over seeds if its median is larger than the range from the least to the most: with
three seeds, chance alone gets there about once in ten times. Accuracies at the end are single
evaluations, and many comparisons are made, none corrected for that.
"""
_QUICK = """\
A few steps on a few images, with few images to judge: this shows that it runs, what a skipped step
costs, and says nothing about how well it trains.
"""


def write_document(results: Path | None, docs: Path) -> Path:
    """Bring numbers to ``DOCS/wus/``, if results are given, and make ``DOCS/wus.md`` of them.

    Raises
    ------
    InputNotFoundError
        If there are none.
    FormatError
        If a file is damaged.
    MissingExtraError
        If matplotlib is not installed; nothing is written then.
    """
    require_matplotlib()
    if results is not None:
        write(results, docs)
    every = read(docs)
    if not every:
        raise InputNotFoundError(f"no numbers of wus in {docs / FOLDER}: give a folder of results")
    text = document(every)
    for runs in every:
        save_curves(runs, docs / FOLDER / f"{runs.folder}.png")
    target = docs / f"{FOLDER}.md"
    write_text(target, text)
    return target


def document(every: Sequence[Runs]) -> str:
    """The text, in Markdown."""
    long = [runs for runs in every if runs.setting["budget"] == "paper"]
    quick = [runs for runs in every if runs.setting["budget"] == "quick"]
    parts = ["# Skipping weight updates while training gains little", _made(), _HOW.strip()]
    if long:
        parts += ["## Summary", summary_table(long), bullets(list(overall(long)))]
        parts += [part for runs in long for part in section(runs)]
    if quick:
        parts += ["## Quick runs", _QUICK.strip(), summary_table(quick)]
        parts += [part for runs in quick for part in section(runs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _made() -> str:
    return (
        f"Generated by `weightcast reproduce {FOLDER}`; the numbers, with every decision to skip, "
        f"are in `{FOLDER}/*.json`."
    )


def summary_table(every: Sequence[Runs]) -> str:
    """A row for each arm that skips, beside the paper."""
    columns = ["network", "data", "arm", "skipped", "time, in full steps", "paper, CIFAR-10"]
    columns += ["paper, CIFAR-100", "accuracy less plain's", "less that of the same cost"]
    rows = [
        [
            runs.setting["network"],
            _DATA.get(runs.setting["data"], "").split(",")[0],
            one.arm,
            spread(one.share, percent),
            spread(one.cost, signed),
            *PAPER[one.arm],
            spread(one.lost, points),
            spread(one.gained, points),
        ]
        for runs in every
        for one in compared(runs)
    ]
    return table(columns, rows)


def section(runs: Runs) -> Iterator[str]:
    """The part of a setting."""
    yield f"### {runs.folder}"
    yield protocol(runs)
    yield from _gaps(runs)
    yield f"![Accuracy against processor seconds: {runs.folder}]({FOLDER}/{runs.folder}.png)"
    yield arms_table(runs)
    if rows := [_beside(one) for one in compared(runs)]:
        yield table(
            ["arm", "processor time, as measured", "in full steps", "control", "its accuracy"], rows
        )
    yield bullets(sentences(runs))
    yield f"```console\n$ {command(runs)}\n```"


def protocol(runs: Runs) -> str:
    """What was run, in a few sentences."""
    made = runs.setting
    epochs = made["steps"] * made["batch"] / made["images"]
    devices = sorted({run.device for by_seed in runs.arms.values() for run in by_seed.values()})
    data = _DATA.get(made["data"], made["data"])
    texts = [
        f"{made['network']} on {data}: {made['images']:,} training images, randomly cropped and "
        f"mirrored; {made['held_out']:,} more are held out, and the first {made['tests']:,} test "
        "images judge.",
        f"SGD at {made['lr']:g}, batches of {made['batch']}; {made['steps']:,} steps "
        f"({epochs:.3g} epochs), evaluated every {made['evaluate_every']:,}.",
        f"Seeds {listed(runs.seeds)}; torch {listed(runs.torch)} on {listed(devices)}.",
    ]
    if "window" in made:
        texts.insert(
            2,
            f"Weights are skipped when the best of the last {made['window']} evaluations gains "
            f"less than {made['threshold']:g} over the best of the {made['window']} before, for "
            f"{made['longest']} evaluations at a time, or until one is worse by more than that.",
        )
    return " ".join(texts)


def _gaps(runs: Runs) -> Iterator[str]:
    missing = {
        arm: [seed for seed in runs.seeds if seed not in runs.arms.get(arm, {})] for arm in ARMS
    }
    lacking = [f"{arm} with seed {listed(seeds)}" for arm, seeds in missing.items() if seeds]
    if lacking:
        yield f"**Not complete.** There is no run of {'; '.join(lacking)}."


def arms_table(runs: Runs) -> str:
    """Every arm: medians over the seeds, and their ranges."""
    columns = ["arm", "steps", "processor s", "wall s", "skipped updates", "windows"]
    columns += ["accuracy at the end", "best accuracy"]
    rows = []
    for arm in runs.arms:
        skips = arm.startswith("WUS")
        steps = runs.over(arm, lambda run: run.steps)
        windows = runs.over(arm, lambda run: len(run.windows))
        row = [
            arm,
            spread(steps, lambda number: f"{number:,.0f}"),
            spread(runs.over(arm, lambda run: run.seconds), decimals),
            spread(runs.over(arm, lambda run: run.wall), decimals),
            spread(runs.over(arm, lambda run: run.share), percent) if skips else "",
            spread(windows, lambda number: f"{number:g}") if skips else "",
            spread(runs.over(arm, lambda run: run.final), percent),
            spread(runs.over(arm, lambda run: run.best), percent),
        ]
        rows.append(row)
    return table(columns, rows)


def _beside(one: Compared) -> list[str]:
    """An arm's time against plain's, and what training as long without skipping gives."""
    row = [one.arm, spread(one.time, signed), spread(one.cost, signed)]
    return [*row, control_name(one.arm), spread(one.control, percent)]


def command(runs: Runs) -> str:
    """How to run it again."""
    name = runs.folder.removesuffix("-quick")
    quick = " --budget quick" if runs.setting["budget"] == "quick" else ""
    seeds = len(runs.seeds)
    return f"weightcast reproduce {FOLDER} --network {name} --data DATA --seeds {seeds}{quick}"


def tables(results: Path) -> str:
    """What the runs in a results folder come to, for a terminal."""
    parts = []
    for name, whole in gather(results).items():
        runs = runs_of(name, whole)
        parts += [name, arms_table(runs), bullets(sentences(runs))]
    return "\n\n".join(parts)


def facts(results: Path) -> dict[str, Any]:
    """The same as JSON: medians and each seed's numbers."""
    return {
        name: {one.arm: _facts(one) for one in compared(runs_of(name, whole))}
        for name, whole in gather(results).items()
    }


def _facts(one: Compared) -> dict[str, Any]:
    names = ("share", "windows", "time", "cost", "lost", "control", "gained")
    spreads: dict[str, Spread] = {name: getattr(one, name) for name in names}
    return {name: {"median": s.median, "by_seed": s.by_seed} for name, s in spreads.items()}
