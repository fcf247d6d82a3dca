"""The Introspection network of Sinha et al. 2017, and its linear form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from weightcast.predictor.kernel import BLOCK, two_layers
from weightcast.predictor.network import Network
from weightcast.predictor.rows import Combination
from weightcast.store.columns import NOW, Entry
from weightcast.store.recipe import PAPER_HORIZON


class Introspection(Network):
    """A two-layer network from what is seen of a weight to its later value.

    The defaults are the paper's section 4.1: inputs and target times 1000, 4-40-1 with ReLU, L1
    loss, Adam at 5e-4 decayed every 8,000 steps, batches of 20, 30,000 steps.

    Parameters
    ----------
    hidden : int
        Hidden units, H.
    scale : float
        Factor on inputs and target: weights move by thousandths.
    learning_rate : float
    decay_every : int
        Steps between decays of the learning rate.
    decay : float
        Factor of each decay. The paper does not give it.
    batch_size : int
    steps : int
        Training steps.
    context : tuple of float and str, optional
        See `Forecaster`.
    horizon : float, str, or tuple of them
        See `Forecaster`.
    random_state : int, RandomState or None
        Seeds the initial weights and the batches.
    scaling : {"fixed", "tensor", "weight"}
        What values are divided by: 1 / `scale`, the scale of the weight's tensor, or how far the
        weight itself has moved; see `weightcast.predictor.scaling.Scaling`.
    target : {"value", "change"}
        What is learned: the later value, or how far it is from w(t).
    validate_every : int
        Steps between points of `curve_`.
    patience : int, optional
        Points without a smaller error on the validation rows after which training ends, and the
        weights of the smallest are kept. None, as in the paper, takes all steps.

    Attributes
    ----------
    hidden_weight_ : float32 array, shape (H, F)
    hidden_bias_ : float32 array, shape (H,)
    output_weight_ : float32 array, shape (H,)
    output_bias_ : float32 array, shape ()
    curve_, training_error_, steps_
        See `Network`.

    Notes
    -----
    `fit` takes ``validation_rows``, ``progress`` and ``checkpoint`` too: a file that holds the
    training's state, from which a training that was interrupted goes on bit for bit.

    Examples
    --------
    >>> X = np.float32([[0.4, 0.3, 0.2, 0.0], [0.1, 0.1, 0.1, 0.1]])
    >>> Introspection(steps=20).fit(X, X[:, 0]).predict(X).shape
    (2,)
    """

    block: ClassVar[int] = BLOCK

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
        scaling: str = "fixed",
        target: str = "value",
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
        self.target = target
        self.validate_every = validate_every
        self.patience = patience

    def _network(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.n_features_in_, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1)
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "hidden_weight_": (self.hidden, self.n_features_in_),
            "hidden_bias_": (self.hidden,),
            "output_weight_": (self.hidden,),
            "output_bias_": (),
        }

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        scaling, last = self._scaling(), self.output_weight_.astype(np.float64)
        hidden, shift = self.hidden_weight_.astype(np.float64), float(self.output_bias_)
        if scaling.matrix is None:
            network = two_layers(hidden, self.hidden_bias_, last, shift, like)

            def scaled(seen: torch.Tensor) -> torch.Tensor:
                inputs, unit, base = scaling.apply(seen)
                forecast: torch.Tensor = base + unit * network(inputs)
                return forecast

            return scaled
        # The scale is folded into the small matrices, so that the snapshots are read once.
        last, shift = last / self.scale, shift / self.scale
        folded = two_layers(hidden @ scaling.matrix, self.hidden_bias_, last, shift, like)
        if self.target == "value":
            return folded
        now = self.sees.columns.index(NOW)
        return lambda seen: folded(seen) + seen[now]


class LinearIntrospection(Introspection):
    """`Introspection` without ReLU, as in the paper's section 4.5: an affine map, learned alike.

    Parameters and attributes are those of `Introspection`.

    Examples
    --------
    >>> X = np.float32([[0.4, 0.3, 0.2, 0.0], [0.1, 0.1, 0.1, 0.1]])
    >>> LinearIntrospection(steps=20).fit(X, X[:, 0]).predict(X).shape
    (2,)
    """

    def _network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.n_features_in_, self.hidden), nn.Linear(self.hidden, 1))

    def _combination(self, numbers: Sequence[float | None]) -> Combination | None:
        matrix = self._scaling().matrix
        if matrix is None:
            return None
        row, shift = self._affine()
        coefficients = row @ matrix / self.scale
        if self.target == "change":
            coefficients[self.sees.columns.index(NOW)] += 1
        return Combination(coefficients.tolist(), shift / self.scale)

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        scaling, (row, shift) = self._scaling(), self._affine()
        combination = like.new_tensor(row)  # [F]

        def values(seen: torch.Tensor) -> torch.Tensor:
            inputs, unit, base = scaling.apply(seen)
            forecast: torch.Tensor = base + unit * (combination @ inputs + shift)
            return forecast

        return values

    def _affine(self) -> tuple[npt.NDArray[np.float64], float]:
        """Both layers as one: the output is row @ inputs + shift."""
        last = self.output_weight_.astype(np.float64)
        return last @ self.hidden_weight_, float(last @ self.hidden_bias_ + self.output_bias_)
