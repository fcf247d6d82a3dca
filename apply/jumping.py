"""A jump: from what was seen of the weights to their forecast. Pure arithmetic on tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from weightcast.apply.flattening import Layout, layouts_of
from weightcast.apply.summing import summing_dtype
from weightcast.predictor import Forecaster
from weightcast.predictor.rows import Row
from weightcast.store import NonFiniteError, ShapeError, UsageError
from weightcast.store.columns import points_of
from weightcast.store.facts import TIMES, tensor_facts, time_facts
from weightcast.store.horizon import Horizon
from weightcast.store.windows import sums_of

TELLING = {"ahead", "ratio"}  # facts that tell a forecaster how far to look


@torch.no_grad()
def jump(
    parameters: Sequence[torch.Tensor],
    snapshots: Sequence[Sequence[torch.Tensor]],
    forecaster: Forecaster,
    *,
    step: int | None = None,
    horizon: object = None,
    scales: Sequence[float] | None = None,
) -> list[torch.Tensor]:
    """Forecast the parameters of a model from its past snapshots.

    Parameters
    ----------
    parameters : sequence of Tensor
        The model's parameters; they give shapes, dtypes and devices, and are not changed.
    snapshots : sequence of sequences of Tensor
        One for each of ``forecaster.sees.points``, in their order: that at t first, then the past
        ones, then those of windows; ``forecaster.sees.steps(t)`` has their steps. Each holds a
        tensor for every parameter.
    forecaster : Forecaster
        Fitted.
    step : int, optional
        Step t of the first snapshot: needed by a context with ``step``, ``ahead`` or ``ratio``.
    horizon : float or str, optional
        See `horizon_of`.
    scales : sequence of float, optional
        Root mean square of each parameter at step 0: needed by a context with ``scale``.

    Returns
    -------
    list of Tensor
        New values, each of its parameter's shape, dtype, device and memory format. Computed in
        float32, or in float64 for float64 parameters.

    Raises
    ------
    ShapeError
        If counts or shapes do not fit.
    UsageError
        If the context needs a step or scales that are not given, or by `horizon_of`.
    NonFiniteError
        If a forecast is NaN or infinite.

    Notes
    -----
    Rows are read block by block: beside what is returned, which is one copy of the weights, no more
    than a block is in memory, and of windows the sums of one parameter.

    Examples
    --------
    >>> from weightcast.predictor import LinearFit
    >>> past = [[torch.tensor([2.0, 4.0])], [torch.tensor([1.0, 2.0])], [torch.zeros(2)]]
    >>> jump(past[0], past, LinearFit((1.0, 0.5, 0.0)))
    [tensor([4., 8.])]
    """
    forecaster = forecaster.ready()
    context, ahead = forecaster.sees, horizon_of(forecaster, horizon)
    if len(snapshots) != len(context.points):
        raise ShapeError(
            f"a jump needs {len(context.points)} snapshots, at the points of its context "
            f"{context}: got {len(snapshots)}"
        )
    if any(len(snapshot) != len(parameters) for snapshot in snapshots):
        raise ShapeError(f"every snapshot needs {len(parameters)} tensors, one a parameter")
    if step is None and not context.facts.isdisjoint(TIMES):
        raise UsageError(f"a context {context} needs the step of the jump: give step=t")
    if "scale" in context.facts and (scales is None or len(scales) != len(parameters)):
        raise UsageError(
            f"a context {context} needs scales, the root mean square of each of the "
            f"{len(parameters)} parameters at step 0: got {scales!r:.60}"
        )
    t = step or 1  # of no account where no fact of time is seen
    layouts = layouts_of(parameters)

    def rows(i: int) -> list[Row]:
        parameter, flat = parameters[i], layouts[i].flat
        past = (flat(snapshot[i]).to(parameter.device) for snapshot in snapshots)
        values = dict(zip(context.points, past, strict=True))
        sums = {}
        for window in context.windows:
            first, *others = (values[point] for point in points_of(window))
            first = first.to(summing_dtype(parameter))
            spread = context.needs_spread(window)
            sums[window] = sums_of(window, [first, *others], spread=spread)
        scale = math.nan if scales is None else scales[i]
        facts = tensor_facts(layouts[i].shape, scale) | time_facts(t, ahead.target(t))
        return context.rows(values, sums, facts)

    return forecasts(parameters, layouts, map(rows, range(len(parameters))), forecaster)


def forecasts(
    parameters: Sequence[torch.Tensor],
    layouts: Sequence[Layout],
    rows: Iterable[list[Row]],
    forecaster: Forecaster,
) -> list[torch.Tensor]:
    """Forecast each parameter from the rows of its context, which are read as they come.

    Parameters
    ----------
    parameters : sequence of Tensor
        As for `jump`.
    layouts : sequence of Layout
        How the rows of each are flattened.
    rows : iterable of lists of rows
        For each parameter what ``forecaster.forecast`` takes.
    forecaster : Forecaster
        Fitted.

    Returns
    -------
    list of Tensor
        As for `jump`.

    Raises
    ------
    NonFiniteError
        If a forecast is NaN or infinite.
    """
    found = []
    for parameter, layout, seen in zip(parameters, layouts, rows, strict=True):
        out = parameter.new_empty(parameter.numel())
        forecaster.forecast(seen, out=out)
        if not all_finite(out):
            raise NonFiniteError(
                f"a forecast must be finite: {layout.name} of shape {layout.shape} is NaN or "
                "infinite in a snapshot or in its forecast; no weight was changed"
            )
        found.append(layout.shaped(out))
    return found


def horizon_of(forecaster: Forecaster, horizon: object = None) -> Horizon:
    """How far a jump goes: what is asked for, or else the forecaster's own single horizon.

    Parameters
    ----------
    forecaster : Forecaster
    horizon : float or str, optional
        A ratio of t (2), or steps ahead ("+500"). One that the forecaster was not fitted for must
        be told to it, by ``ahead`` or ``ratio`` in its context.

    Raises
    ------
    UsageError
        If it has several horizons and none is given, or cannot have this one.

    Examples
    --------
    >>> from weightcast.predictor import LinearFit
    >>> horizon_of(LinearFit(horizon=1.5).ready())
    Horizon(ratio=1.5, steps=0)
    """
    name, own = type(forecaster).__name__, forecaster.horizons
    known = " and ".join(map(str, own))
    if horizon is None:
        if len(own) > 1:
            raise UsageError(
                f"a jump needs one horizon, and this {name} is for {known}: choose with horizon= "
                "(--horizon)"
            )
        return own[0]
    wanted = Horizon.of(horizon)
    if wanted not in own and forecaster.sees.facts.isdisjoint(TELLING):
        raise UsageError(
            f"this {name} is for {known}, and is not told another horizon: got {wanted}; leave it "
            "away, or fit one whose context has ahead or ratio"
        )
    return wanted


def all_finite(values: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite; without an array of answers."""
    # the extremes are NaN if any number is
    return not len(values) or bool(torch.stack(torch.aminmax(values)).isfinite().all())
