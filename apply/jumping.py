"""A jump: from past snapshots to forecast weights. Pure arithmetic on tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weightcast.predictor import Forecaster
from weightcast.store import NonFiniteError, ShapeError


@torch.no_grad()
def jump(
    parameters: Sequence[torch.Tensor],
    snapshots: Sequence[Sequence[torch.Tensor]],
    forecaster: Forecaster,
) -> list[torch.Tensor]:
    """Forecast the parameters of a model from its past snapshots.

    Parameters
    ----------
    parameters : sequence of Tensor
        The model's parameters; they give shapes, dtypes and devices, and are not changed.
    snapshots : sequence of sequences of Tensor
        One for each entry of the forecaster's context, in its order (the latest first); each holds
        a tensor for every parameter.
    forecaster : Forecaster
        Fitted.

    Returns
    -------
    list of Tensor
        New values, each of its parameter's shape, dtype and device. Computed in float32, or in
        float64 for float64 parameters.

    Raises
    ------
    ShapeError
        If counts or shapes do not fit.
    NonFiniteError
        If a forecast is NaN or infinite.

    Examples
    --------
    >>> from weightcast.predictor import LinearFit
    >>> past = [[torch.tensor([2.0, 4.0])], [torch.tensor([1.0, 2.0])], [torch.zeros(2)]]
    >>> jump(past[0], past, LinearFit((1.0, 0.5, 0.0)))
    [tensor([4., 8.])]
    """
    forecaster = forecaster.ready()
    if len(snapshots) != len(forecaster.context_):
        raise ShapeError(
            f"a jump needs {len(forecaster.context_)} snapshots, at {forecaster.context_} of t: "
            f"got {len(snapshots)}"
        )
    if any(len(snapshot) != len(parameters) for snapshot in snapshots):
        raise ShapeError(f"every snapshot needs {len(parameters)} tensors, one a parameter")
    forecasts = []
    for i, parameter in enumerate(parameters):
        past = [snapshot[i] for snapshot in snapshots]
        if any(p.shape != parameter.shape for p in past):
            raise ShapeError(
                f"snapshots of parameter {i} must have its shape {tuple(parameter.shape)}: got "
                f"{[tuple(p.shape) for p in past]}"
            )
        context = torch.stack([p.reshape(-1) for p in past]).to(parameter.device)  # [F, n]
        forecast = forecaster.forecast(context).reshape(parameter.shape).to(parameter.dtype)
        if not forecast.isfinite().all():
            raise NonFiniteError(
                f"a forecast must be finite: parameter {i} of shape {tuple(parameter.shape)} is "
                "NaN or infinite in a snapshot or in its forecast; no weight was changed"
            )
        forecasts.append(forecast)
    return forecasts
