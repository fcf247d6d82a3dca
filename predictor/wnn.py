"""The weight nowcaster of Jang et al. 2023: a network with two streams."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from weightcast.predictor.network import Network
from weightcast.store import UsageError
from weightcast.store.columns import Entry, Past
from weightcast.store.context import Context
from weightcast.store.recipe import PAPER_HORIZON

_MOST_HIDDEN = 1 << 12  # a layer has the square of it: what memory surely holds


class WNN(Network):
    """Two streams of fully connected layers, of past values and of their differences.

    ::

        past values  [F]      -> H, ReLU -> H, ReLU --+
                                                      +--> 1, the change from w(t)
        differences  [past-1] -> H, ReLU -> H, ReLU --+

    Parameters
    ----------
    hidden : int
        Units of each layer of a stream, H.
    scale, scaling
        See `Introspection`. By default each weight is measured by how far it has moved itself, so
        that one network serves any task.
    learning_rate, decay_every, decay, batch_size, steps, validate_every, patience, random_state
        See `Introspection`.
    context : tuple of float and str, optional
        See `Forecaster`; with w(t) and at least one more past value. Columns that are not past
        values join the first stream.
    horizon : float, str, or tuple of them
        See `Forecaster`.

    Raises
    ------
    UsageError
        By `fit`, if a context is given that has fewer than two past values.

    Notes
    -----
    Written from the published description of "Learning to Boost Training by Periodic Nowcasting
    Near Future Weights" (ICML 2023), as its abstract and the authors' project page give it: two
    streams of fully connected layers with an activation, whose features are joined and go through
    one more layer, and whose output is added to the weight. That leaves room, and
    these are choices of this module: the number and width of layers, ReLU, the scaling, features
    side by side, and one network for all kinds of parameters, where the authors train one each for
    convolutions, fully connected layers and biases. Theirs sees the ends of the last 5 epochs and
    looks 5 epochs ahead: ``context="last:5/EPOCH"``, ``horizon="+5 EPOCHS"``, in steps.

    Without a context one column is accepted, as scikit-learn asks of a regressor: there is no
    difference then, and no second stream.

    Examples
    --------
    >>> X = torch.randn(30, 5).numpy()
    >>> model = WNN(hidden=8, steps=20, context="last:5/100", horizon="+500").fit(X, X[:, 0])
    >>> model.predict(X[:2]).shape
    (2,)
    """

    target = "change"

    def __init__(
        self,
        hidden: int = 40,
        scale: float = 1000.0,
        learning_rate: float = 5e-4,
        decay_every: int = 8000,
        decay: float = 0.5,
        batch_size: int = 20,
        steps: int = 30_000,
        context: tuple[Entry, ...] | None = None,
        horizon: Any = PAPER_HORIZON,
        random_state: Any = 0,
        scaling: str = "weight",
        validate_every: int = 1000,
        patience: int | None = None,
    ) -> None:
        self.hidden = hidden
        self.scale = scale
        self.learning_rate = learning_rate
        self.decay_every = decay_every
        self.decay = decay
        self.batch_size = batch_size
        self.steps = steps
        self.context = context
        self.horizon = horizon
        self.random_state = random_state
        self.scaling = scaling
        self.validate_every = validate_every
        self.patience = patience

    def check_options(self) -> None:
        """Check the options; see `Forecaster.check_options`."""
        super().check_options()
        if self.hidden > _MOST_HIDDEN:
            raise UsageError(f"hidden must be at most {_MOST_HIDDEN} for WNN: got {self.hidden!r}")
        if self.context is not None and len(_past(Context.of(self.context))) < 2:
            raise UsageError(
                f"WNN needs two past values, to have a difference: got context {self.context}"
            )

    def _network(self) -> nn.Module:
        return _TwoStreams(_differences(self.sees), self.hidden)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        units = self.hidden
        found: dict[str, tuple[int, ...]] = {}
        widths = {"values": self.n_features_in_, "differences": len(_differences(self.sees))}
        streams = {name: width for name, width in widths.items() if width}
        for name, width in streams.items():
            found[f"{name}_first_weight_"] = (units, width)
            found[f"{name}_first_bias_"] = (units,)
            found[f"{name}_second_weight_"] = (units, units)
            found[f"{name}_second_bias_"] = (units,)
        return found | {"output_weight_": (len(streams) * units,), "output_bias_": ()}

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        scaling = self._scaling()
        learned = {name: tensor.to(like) for name, tensor in self.tensors().items()}
        differences = _differences(self.sees).to(like)
        streams = ("values", "differences") if len(differences) else ("values",)
        lasts = learned["output_weight_"].split(self.hidden)  # of [H]

        def features(name: str, inputs: torch.Tensor) -> torch.Tensor:
            first, bias, second, constant = (
                learned[f"{name}_{part}_"]
                for part in ("first_weight", "first_bias", "second_weight", "second_bias")
            )
            seen = differences @ inputs if name == "differences" else inputs  # [F or D, n]
            units = torch.addmm(bias[:, None], first, seen).relu_()  # [H, n]
            return torch.addmm(constant[:, None], second, units).relu_()

        def values(seen: torch.Tensor) -> torch.Tensor:
            inputs, unit, base = scaling.apply(seen)
            output = learned["output_bias_"].expand(seen.shape[1])
            for name, last in zip(streams, lasts, strict=True):
                output = output + last @ features(name, inputs)
            return base + unit * output

        return values


class _TwoStreams(nn.Module):
    """The network, [n, F] -> [n, 1]; `differences` is the map from its inputs to theirs, [D, F]."""

    def __init__(self, differences: torch.Tensor, hidden: int) -> None:
        super().__init__()
        count, columns = differences.shape
        self.map = differences
        self.values = _stream(columns, hidden)
        self.differences = _stream(count, hidden) if count else None
        self.output = nn.Linear(hidden * (2 if count else 1), 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.values(inputs)
        if self.differences is not None:
            moved = self.differences(inputs @ self.map.T)
            features = torch.cat([features, moved], 1)  # [n, 2H]
        output: torch.Tensor = self.output(features)
        return output


def _stream(columns: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(columns, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
    )


def _past(context: Context) -> list[int]:
    """Columns that are past values."""
    return [place for place, c in enumerate(context.columns) if isinstance(c, Past)]


def _differences(context: Context) -> torch.Tensor:
    """Differences of neighbouring past values, as a map of scaled inputs: shape (D, F)."""
    past = _past(context)
    found = torch.zeros(max(len(past) - 1, 0), len(context.columns))
    for row, (later, earlier) in enumerate(itertools.pairwise(past)):
        found[row, later], found[row, earlier] = 1, -1
    return found
