"""From sums to the rows of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from weightcast.store.early_report import EarlyRow
from weightcast.store.early_sums import GRADIENTS, Plan, Sums, Totals


def rows_of(plan: Plan, totals: Totals, metrics: Mapping[str, str]) -> tuple[EarlyRow, ...]:
    """A row of the report for each row of a plan.

    Parameters
    ----------
    plan : Plan
    totals : Totals
        What its pass added up.
    metrics : mapping of str to str
        What the columns "gradient", "loss" and "accuracy" are from, as the report has it.
    """
    logged = {column: _logged(plan, totals, column, name) for column, name in metrics.items()}
    return tuple(
        _row(plan, totals, at, {column: values[at] for column, values in logged.items()})
        for at in range(len(plan.rows))
    )


def _row(plan: Plan, totals: Totals, at: int, logged: Mapping[str, float]) -> EarlyRow:
    now = {name: float(values[at]) for name, values in totals.measured.items()}
    comparable = math.isfinite(now["from_start"])
    return EarlyRow(
        step=int(plan.history.steps[plan.rows[at]]),
        gradient=_known(logged.get("gradient")),
        step_size=_known(_step_size(plan, totals, at)),
        magnitude=_known(now["magnitude"] / plan.weights),
        from_start=_known(math.sqrt(now["from_start"])),
        to_end=_known(math.sqrt(now["to_end"])),
        cosine_start=_cosine(now["with_start"], now["now"], now["start"]),
        cosine_end=_cosine(now["with_end"], now["now"], now["end"]),
        sign_changes=now["signs"] / plan.weights if comparable else None,
        moved=now["moved"] / plan.weights if comparable else None,
        loss=_known(logged.get("loss")),
        accuracy=_known(logged.get("accuracy")),
        not_finite=int(now["not_finite"]),
    )


def _step_size(plan: Plan, totals: Totals, at: int) -> float | None:
    """Mean way of a weight in an optimizer step since the row before."""
    if not at:
        return None
    before, row = plan.rows[at - 1], plan.rows[at]
    steps = int(plan.history.steps[row] - plan.history.steps[before])
    return float(totals.path[before + 1 : row + 1].sum()) / (plan.weights * steps)


def _logged(plan: Plan, totals: Totals, column: str, name: str) -> Sums:
    """What is known of a metric for each row to measure, since the row before; NaN if nothing."""
    if name == GRADIENTS and name in plan.history.wide:
        some = np.flatnonzero(totals.with_gradient)  # the first row has none
        steps = plan.history.steps[some]
        values = totals.gradients[some] / totals.with_gradient[some]
    else:
        steps, values = plan.history.metric(name)
    ends = plan.history.steps[list(plan.rows)]
    found = np.full(len(ends), np.nan)
    for i, end in enumerate(ends):
        since = steps > ends[i - 1] if i else steps >= 0
        if len(mine := values[since & (steps <= end)]):
            found[i] = mine[-1] if column == "accuracy" else mine.mean()
    return found


def gradientless(plan: Plan, totals: Totals) -> int:
    """How many weights had no gradient, at the recorded step with the most of them.

    Steps at which none had one do not count.
    """
    some = totals.with_gradient[totals.with_gradient > 0]
    return plan.weights - int(some.min(initial=plan.weights))


def _known(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _cosine(product: float, square: float, other: float) -> float | None:
    """Cosine from a dot product and two squared norms; None where a vector has no direction."""
    norms = math.sqrt(square) * math.sqrt(other)
    if not norms or not math.isfinite(norms) or not math.isfinite(product):
        return None
    return min(max(product / norms, -1.0), 1.0)
