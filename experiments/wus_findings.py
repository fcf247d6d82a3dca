"""What skipping gained or lost beside runs of the same cost, in numbers and in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from weightcast.experiments.comparing import compare
from weightcast.experiments.summary import Spread
from weightcast.experiments.wording import listed, percent, points, spread
from weightcast.experiments.wus_measured import Measured
from weightcast.experiments.wus_numbers import Runs

PAPER = {"WUS": ("-54 %", "-43 %"), "WUS + LR": ("-50 %", "-35 %")}  # CIFAR-10, CIFAR-100
BESIDE = {"WUS": "plain", "WUS + LR": "plain + LR"}  # what skips, and the same without


@dataclass(frozen=True)
class Compared:
    """An arm that skips, beside others of the same seeds.

    Attributes
    ----------
    arm, plain : str
        It, and the same without skipping.
    share : Spread
        Of weight updates that were skipped.
    windows : Spread
        How many.
    time : Spread
        Change of processor seconds against plain, as measured: -0.5 is half.
    cost : Spread
        The same counted in full steps.
    lost : Spread
        Accuracy at the end, less plain's.
    control : Spread
        Accuracy of plain training that costs the same.
    gained : Spread
        Accuracy at the end, less the control's.
    most : Spread
        Change of the time if every step skipped weights, with no evaluations.
    """

    arm: str
    plain: str
    share: Spread
    windows: Spread
    time: Spread
    cost: Spread
    lost: Spread
    control: Spread
    gained: Spread
    most: Spread


def compared(runs: Runs) -> Iterator[Compared]:
    """The comparisons of a setting, as far as there are runs of the arm that did not diverge."""
    runs = runs.sound
    for arm, plain in BESIDE.items():
        if not runs.arms.get(arm):
            continue
        final = runs.over(arm, lambda run: run.final)
        control = same_cost(runs, arm)
        seconds = runs.over(arm, _seconds).of(runs.over(plain, _seconds))
        ratios = {s: r.skipping for s, r in runs.arms[arm].items() if r.skipping is not None}
        yield Compared(
            arm=arm,
            plain=plain,
            share=runs.over(arm, lambda run: run.share),
            windows=runs.over(arm, lambda run: len(run.windows)),
            time=Spread({seed: value - 1 for seed, value in seconds.by_seed.items()}),
            cost=runs.over(arm, lambda run: run.cost / run.steps - 1),
            lost=final.less(runs.over(plain, lambda run: run.final)),
            control=control,
            gained=final.less(control),
            most=Spread({seed: ratio - 1 for seed, ratio in ratios.items()}),
        )


def same_cost(runs: Runs, arm: str) -> Spread:
    """Accuracy of plain training that takes the processor seconds of an arm, by seed.

    With a constant learning rate a shorter run is the beginning of a longer one: read off plain's
    curve, which ends where the arm costs more than all of it. With a schedule it is "shorter + LR".
    """
    if arm != "WUS":
        return runs.over("shorter + LR", lambda run: run.final)
    plain, skipped = runs.arms.get("plain", {}), runs.arms[arm]
    both = [seed for seed in skipped if seed in plain]
    return Spread({seed: plain[seed].after(skipped[seed].cost) for seed in both})


def sentences(runs: Runs) -> list[str]:
    """What the numbers of a setting say, in plain words."""
    found = [text for one in compared(runs) for text in _of(one, runs)]
    diverged = [
        f"{arm} with seed {seed}"
        for arm, by_seed in runs.arms.items()
        for seed, run in by_seed.items()
        if run.diverged
    ]
    if diverged:
        found.append(
            f"Training diverged: {listed(diverged)}. A run that diverges stops there, and so costs "
            "little: these are in the picture and in the table of all arms, and left out of all "
            "that is compared."
        )
    return found


def _of(one: Compared, runs: Runs) -> Iterator[str]:
    if not one.share.high:
        yield f"{one.arm} never skipped: its rule found no window that gained too little."
        return
    yield (
        f"{one.arm} skipped {spread(one.share, percent)} of the weight updates; its time changed "
        f"by {spread(one.cost, signed)}."
    )
    if one.most.by_seed:
        ratio = Spread({seed: 1 + value for seed, value in one.most.by_seed.items()})
        yield (
            f"A step of {one.arm} that skips takes {spread(ratio, percent)} of the processor time "
            "of a full one, as the forward pass and the gradients of activations remain: skipping "
            f"every step would change the time by {spread(one.most, signed)}. The paper reports "
            f"{PAPER[one.arm][0]} of its whole training on CIFAR-10."
        )
    yield _counted(f"{one.arm} against {one.plain} of the whole length", one.lost)
    yield _counted(f"{one.arm} against {control_name(one.arm)}", one.gained)
    if one.arm == "WUS" and any(cost > 0 for cost in one.cost.values):
        seeds = sum(cost > 0 for cost in one.cost.values)
        yield (
            f"WUS cost more than plain in all its length with {seeds} of "
            f"{len(one.cost.values)} seeds, for the evaluations that it needs: there the control "
            f"is all of plain."
        )


def control_name(arm: str) -> str:
    """What costs as much as an arm."""
    return "plain stopped at the same cost" if arm == "WUS" else "the shorter plain + LR"


def _counted(what: str, gain: Spread) -> str:
    """How often better and worse, by how much, and whether beyond the range over the seeds."""
    if not gain.by_seed:
        return f"{what}: there is no pair of runs to compare."
    of, values = len(gain.by_seed), gain.values
    better, worse = sum(v > 0 for v in values), sum(v < 0 for v in values)
    equal = f", the same in {of - better - worse}" if better + worse < of else ""
    found = compare(gain, Spread(dict.fromkeys(gain.by_seed, 0.0)), fewer=False)
    said = {
        1: "better beyond the range over seeds",
        -1: "worse beyond the range over seeds",
        0: "no difference beyond the range over seeds",
        None: "one seed, not judged",
    }[found]
    return (
        f"{what}: better in {better} of {of} seeds, worse in {worse}{equal}; "
        f"{spread(gain, points)}; {said}."
    )


def overall(every: list[Runs]) -> Iterator[str]:
    """What all settings of the same budget say together."""
    for arm in BESIDE:
        gains = [one.gained.values for runs in every for one in compared(runs) if one.arm == arm]
        values = [value for some in gains for value in some]
        if values:
            lost = sum(v < 0 for v in values)
            won = sum(v > 0 for v in values)
            yield (
                f"{arm} lost to {control_name(arm)} in {lost} of {len(values)} pairs of runs, and "
                f"won in {won}."
            )


def signed(change: float) -> str:
    """A change of time.

    Examples
    --------
    >>> signed(-0.237), signed(0.01)
    ('-23.7 %', '+1.0 %')
    """
    return f"{100 * change:+.1f} %"


def _seconds(run: Measured) -> float:
    return run.seconds
