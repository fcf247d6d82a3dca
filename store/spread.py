"""How far weights moved, as a report: plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Measure = Literal["change", "deviation"]
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Spread:
    """How one measure is spread over a group of weights.

    Attributes
    ----------
    quantiles : tuple of float
        Values of weights of the group, one for each of the report's `quantiles`.
    mean, largest : float
    still : float
        Share of weights that barely moved: by at most the report's `still` times `largest`.
    unmoved : float
        Share of weights that did not move at all: exactly 0.
    histogram : tuple of int
        Weights in each of 100 equal bins from 0 to `largest`; the upper edge belongs to a bin, and
        0 to the first, so that this one counts those within 0.01 of `largest`.
    """

    quantiles: tuple[float, ...]
    mean: float
    largest: float
    still: float
    unmoved: float
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class GroupVariation:
    """How far the weights of a group moved.

    Attributes
    ----------
    what : {"model", "kind", "tensor"}
    name : str
        The kind, the tensor's name, or "whole model".
    weights : int
        Weights of the group.
    not_finite : int
        How many of them are left out of all statistics: at one of the steps, or in their change or
        deviation, NaN or infinite. The difference of two large numbers may be too large.
    change, deviation : Spread or None
        None where no weight is left.
    """

    what: Literal["model", "kind", "tensor"]
    name: str
    weights: int
    not_finite: int
    change: Spread | None
    deviation: Spread | None

    def spread(self, measure: Measure) -> Spread | None:
        """One of the two, by its name."""
        return self.change if measure == "change" else self.deviation


@dataclass(frozen=True)
class WeightVariation:
    """How far one weight moved.

    Attributes
    ----------
    name : str
        Of its tensor.
    index : tuple of int
        Within the tensor.
    parameter : int
        Along the history's parameter axis.
    change, deviation : float
    """

    name: str
    index: tuple[int, ...]
    parameter: int
    change: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.name}[{','.join(map(str, self.index))}]" if self.index else self.name


@dataclass(frozen=True)
class VariationReport:
    """How far the weights of a history moved between two steps.

    Attributes
    ----------
    source : str
        Path or URL of the history.
    first_step, last_step, steps : int
        The steps between which was measured, and how many recorded ones that are, both included.
    quantiles : tuple of float
        Which quantiles the groups give. Each is the value of a weight: NumPy's method
        "inverted_cdf", without interpolation.
    still : float
        Fraction of a group's largest value up to which a weight barely moved.
    by : {"change", "deviation"}
        What `top` and `drawn` go by.
    groups : tuple of GroupVariation
        The whole model, every kind, then every tensor.
    top : tuple of WeightVariation
        The most changed weights, the largest first; of equal ones the first in the model.
    drawn : tuple of tuples of WeightVariation
        Weights drawn at random from the lower, middle and upper third of the model's histogram.
    """

    source: str
    first_step: int
    last_step: int
    steps: int
    quantiles: tuple[float, ...]
    still: float
    by: Measure
    groups: tuple[GroupVariation, ...]
    top: tuple[WeightVariation, ...]
    drawn: tuple[tuple[WeightVariation, ...], ...] = ()

    @property
    def model(self) -> GroupVariation:
        """The whole model: all weights that were measured."""
        return self.groups[0]

    def to_json(self) -> dict[str, Any]:
        """Plain data, without histograms and `drawn`."""
        document = asdict(self)
        del document["drawn"]
        for group in document["groups"]:
            for measure in ("change", "deviation"):
                if group[measure]:
                    del group[measure]["histogram"]
        return document
