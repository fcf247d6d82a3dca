"""What `weightcast early` says of a run, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from weightcast.store.subphases import SubPhases


@dataclass(frozen=True)
class EarlyRow:
    """The state of a run at a recorded step. What is not known is None.

    Attributes
    ----------
    step : int
    gradient : float or None
        Mean magnitude of the gradients of those weights that had one, or the logged metric; the
        mean of what was recorded after the step of the row before, up to this one.
    step_size : float or None
        Mean distance that a weight went in an optimizer step since the row before: the sum of
        |w(r) - w(r-1)| over the recorded steps between, by the number of optimizer steps.
    magnitude : float or None
        Mean of |w|.
    from_start, to_end : float or None
        Euclidean distance from the first recorded step, and to the last one of the history.
    cosine_start, cosine_end : float or None
        Cosine of the angle between the weights and those of the first and last step.
    sign_changes : float or None
        Share of weights whose sign is opposite to that at the first step; a 0 has no sign.
    moved : float or None
        Share of weights whose distance from their start is more than the report's `moved` times
        their own magnitude there.
    loss : float or None
        Mean of what was logged after the step of the row before, up to this one.
    accuracy : float or None
        The last that was logged there.
    not_finite : int
        Weights that are NaN or infinite: if there are any, what is computed of weights is None.
    """

    step: int
    gradient: float | None
    step_size: float | None
    magnitude: float | None
    from_start: float | None
    to_end: float | None
    cosine_start: float | None
    cosine_end: float | None
    sign_changes: float | None
    moved: float | None
    loss: float | None
    accuracy: float | None
    not_finite: int


COLUMNS = tuple(field.name for field in fields(EarlyRow))


@dataclass(frozen=True)
class EarlyReport:
    """The early phase of a run.

    Attributes
    ----------
    source : str
        Path or URL of the history.
    weights : int
        How many were measured.
    start, end : int
        First and last recorded step of the history, whatever steps `rows` are of.
    moved : float
        What a weight has to move to count, by its own magnitude at the start.
    metrics : dict of str to str
        What the columns "gradient", "loss" and "accuracy" are from: a metric's name, or "gradients"
        for those that were recorded. A column that is not there has no source.
    gradientless : int
        How many of the weights had no recorded gradient, at the recorded step with the most of
        them: those are in no mean of the column "gradient". 0 where it is from a metric.
    rows : tuple of EarlyRow
    phases : SubPhases
    """

    source: str
    weights: int
    start: int
    end: int
    moved: float
    metrics: dict[str, str]
    gradientless: int
    rows: tuple[EarlyRow, ...]
    phases: SubPhases

    @property
    def diverged(self) -> int | None:
        """The first step of `rows` at which weights are not finite."""
        return next((row.step for row in self.rows if row.not_finite), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)
