"""What a comparison of arms shows: as a table, and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from weightcast.experiments.demo import DemoResult
from weightcast.experiments.training import Curve, running_median, steps_to

CHECKPOINTS = (0.25, 0.5, 1.0)  # of the run, at which arms are compared
NO_DIFFERENCE = 0.05  # shares of steps that differ by less are called equal


def table(result: DemoResult) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: each arm at equal steps, its way to the plain run's best, its forecast.

    Cells are medians over the seeds, of running medians over five evaluations; in parentheses each
    seed. The forecast error is that of w(2t) at the jump points of the plain runs, on average: not
    to jump is to forecast the last value.
    """
    steps = [round(share * result.steps) for share in CHECKPOINTS]
    columns = [
        "arm",
        *(f"accuracy, loss\nat {step}" for step in steps),
        "steps to\nplain's best",
        "forecast error\nL1 x 1000",
    ]
    total = result.forecast[-1]
    forecast = {
        "plain": f"{1000 * _known(total.last_value):.3f} (last value)",
        "jumps": f"{1000 * total.forecaster:.3f}",
        "line jumps": f"{1000 * _known(total.linear_fit):.3f}",
    }
    rows = []
    for arm, curves in result.curves.items():
        cells = [_at(curves, step) for step in steps]
        reached = _reached(steps_to_best(result, arm))
        rows.append([arm, *cells, reached, forecast.get(arm, "")])
    return columns, rows


def steps_to_best(result: DemoResult, arm: str) -> list[int | None]:
    """For each seed, steps until an arm holds the best accuracy that its plain run held.

    Both are judged by the running median of five evaluations.
    """
    best = [max(running_median(plain.accuracy)) for plain in result.curves["plain"]]
    return [steps_to(c, b) for c, b in zip(result.curves[arm], best, strict=True)]


def verdict(result: DemoResult) -> str:
    """What the numbers show, in words, good or bad."""
    return "\n".join([_on_forecast(result), _on_jumps(result), _on_rivals(result)])


def _on_forecast(result: DemoResult) -> str:
    total = result.forecast[-1]
    against = _percent(total.forecaster, _known(total.last_value))
    straight = _percent(total.forecaster, _known(total.linear_fit))
    return (
        f"Forecast: for w(2t) of networks it never saw, the error is {against} the last value's "
        f"and {straight} the straight line's."
    )


def _on_jumps(result: DemoResult) -> str:
    plain, jumps = (steps_to_best(result, arm) for arm in ("plain", "jumps"))
    saved = [1 - j / p if j is not None and p else None for p, j in zip(plain, jumps, strict=True)]
    sooner = sum(s is not None and s > NO_DIFFERENCE for s in saved)
    later = sum(s is None or s < -NO_DIFFERENCE for s in saved)
    if sooner == len(saved):
        conclusion = "jumps helped in every run"
    elif sooner:
        conclusion = f"mixed: jumps helped in {sooner} of {len(saved)} runs, and hurt in {later}"
    elif later:
        conclusion = f"jumps helped in no run, and hurt in {later} of {len(saved)}"
    else:
        conclusion = "no difference to speak of: jumps did not help"
    each = ", ".join("never" if s is None else f"{0 - s:+.0%}" for s in saved)
    plain_loss, loss = (median(c.loss[-1] for c in result.curves[a]) for a in ("plain", "jumps"))
    return (
        "Jumps: steps until the plain run's best accuracy is reached, against the plain run of the "
        f"same seed (untuned, as the jumping one is): {each}; {conclusion}. At the end, the median "
        f"validation loss was {_percent(loss, plain_loss)} the plain runs'."
    )


def _on_rivals(result: DemoResult) -> str:
    known = {
        arm: steps
        for arm in result.curves
        if (steps := _typical(steps_to_best(result, arm))) is not None
    }
    others = [f"{arm} {s:g}" for arm, s in known.items() if arm not in ("plain", "jumps")]
    if not others:
        return "Alternatives: none of them reached that accuracy."
    best = min(known, key=lambda arm: known[arm])
    close = [arm for arm in known if known[arm] <= known[best] / (1 - NO_DIFFERENCE)]
    if close == ["jumps"]:
        closing = "jumps were the quickest way there"
    elif "jumps" in close:
        rivals = " and ".join(arm for arm in close if arm != "jumps")
        closing = f"jumps were no quicker than {rivals}"
    else:
        closing = f"{best} is quicker than jumps, without a trained forecaster"
    return (
        f"Alternatives, median steps to the same accuracy: {', '.join(others)}; {closing}. The "
        f"tuned rates are {result.rate:g}, and a peak of {result.peak:g} of a one-cycle schedule "
        f"over all {result.steps} steps."
    )


def _at(curves: Sequence[Curve], step: int) -> str:
    picks = [min(range(len(c.steps)), key=lambda i, c=c: abs(c.steps[i] - step)) for c in curves]  # type: ignore[misc]
    accuracy = [running_median(c.accuracy)[i] for c, i in zip(curves, picks, strict=True)]
    loss = [running_median(c.loss)[i] for c, i in zip(curves, picks, strict=True)]
    return f"{median(accuracy):.1%} {median(loss):.3f}"


def _reached(steps: Sequence[int | None]) -> str:
    each = ", ".join("-" if s is None else str(s) for s in steps)
    typical = _typical(steps)
    return f"{'not reached' if typical is None else f'{typical:g}'} ({each})"


def _typical(steps: Sequence[int | None]) -> float | None:
    """Median over the seeds, counting a level never reached as later than any step."""
    middle = median(float("inf") if s is None else s for s in steps)
    return None if middle == float("inf") else float(middle)


def _known(error: float | None) -> float:
    return math.nan if error is None else error


def _percent(value: float, reference: float) -> str:
    change = value / reference - 1
    return f"{abs(change):.0%} {'below' if change < 0 else 'above'}"
