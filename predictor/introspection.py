"""The Introspection network of Sinha et al. 2017."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import check_random_state
from torch import nn

from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.threads import one_thread
from weightcast.store import FormatError, UsageError
from weightcast.store.recipe import PAPER_HORIZON

_BATCHES_AT_ONCE = 500  # gathered from the memory-mapped samples in one read


class Introspection(Forecaster):
    """A two-layer network from a weight's past values to its later value.

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
    context : tuple of float, optional
        See `Forecaster`.
    horizon : float
        See `Forecaster`.
    random_state : int, RandomState or None
        Seeds the initial weights and the batches.

    Attributes
    ----------
    hidden_weight_ : float32 array, shape (H, F)
    hidden_bias_ : float32 array, shape (H,)
    output_weight_ : float32 array, shape (H,)
    output_bias_ : float32 array, shape ()
    training_error_ : float
        Mean L1 error over the last tenth of the training steps, in the weights' own units.

    Examples
    --------
    >>> X = np.float32([[0.4, 0.3, 0.2, 0.0], [0.1, 0.1, 0.1, 0.1]])
    >>> Introspection(steps=20).fit(X, X[:, 0]).predict(X).shape
    (2,)
    """

    def __init__(
        self,
        hidden: int = 40,
        scale: float = 1000.0,
        learning_rate: float = 5e-4,
        decay_every: int = 8000,
        decay: float = 0.5,
        batch_size: int = 20,
        steps: int = 30_000,
        context: tuple[float, ...] | None = None,
        horizon: float = PAPER_HORIZON,
        random_state: Any = 0,
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

    def _learn(
        self,
        X: npt.NDArray[Any],
        y: npt.NDArray[Any],
        progress: Callable[[str, int, int], None] | None = None,
        rows: npt.NDArray[np.int64] | None = None,
        **options: Any,
    ) -> None:
        """Train on X, y; `rows` are those to draw batches from, all of them by default."""
        if rows is not None and not len(rows):
            raise UsageError("there must be samples to learn from: got no rows")
        random = check_random_state(self.random_state)
        with _plain_torch(), one_thread():
            torch.manual_seed(int(random.randint(2**31)))
            network = nn.Sequential(
                nn.Linear(X.shape[1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1)
            )
            self.training_error_ = self._train(network, X, y, rows, random, progress)
        learned = (torch.tensor(self.training_error_), *network.parameters())
        if not all(p.isfinite().all() for p in learned):
            raise UsageError(
                f"training diverged at learning_rate {self.learning_rate:g}: choose a smaller one"
            )
        first, last = (layer.state_dict() for layer in (network[0], network[2]))
        self.hidden_weight_ = first["weight"].numpy()
        self.hidden_bias_ = first["bias"].numpy()
        self.output_weight_ = last["weight"][0].numpy()
        self.output_bias_ = last["bias"][0].numpy()

    def _train(
        self,
        network: nn.Module,
        X: npt.NDArray[Any],
        y: npt.NDArray[Any],
        rows: npt.NDArray[np.int64] | None,
        random: Any,
        progress: Callable[[str, int, int], None] | None,
    ) -> float:
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, self.decay_every, self.decay)
        losses: list[torch.Tensor] = []
        for start in range(0, self.steps, _BATCHES_AT_ONCE):
            count = min(_BATCHES_AT_ONCE, self.steps - start)
            drawn = random.randint(len(X if rows is None else rows), size=(count, self.batch_size))
            drawn = drawn if rows is None else rows[drawn]
            inputs = torch.from_numpy(X[drawn].astype(np.float32)) * self.scale  # [count, b, F]
            targets = torch.from_numpy(y[drawn].astype(np.float32)) * self.scale  # [count, b]
            for x, target in zip(inputs, targets, strict=True):
                loss = nn.functional.l1_loss(network(x)[:, 0], target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())
            if progress is not None:
                progress("fit", start + count, self.steps)
        last_tenth = losses[-max(len(losses) // 10, 1) :]
        return float(torch.stack(last_tenth).mean()) / self.scale

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        # The scale is folded into the small matrices, so that the snapshots are read once.
        first = like.new_tensor(self.hidden_weight_) * self.scale  # [H, F]
        bias = like.new_tensor(self.hidden_bias_)[:, None]  # [H, 1]
        last = like.new_tensor(self.output_weight_) / self.scale  # [H]
        shift = float(self.output_bias_) / self.scale

        def values(context: torch.Tensor) -> torch.Tensor:
            hidden = torch.addmm(bias, first, context).relu_()  # [H, n]
            return last @ hidden + shift  # [n]

        return values

    def check_options(self) -> None:
        """Check the options; see `Forecaster.check_options`."""
        super().check_options()
        for name in ("hidden", "decay_every", "batch_size", "steps"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise UsageError(f"{name} must be a whole number from 1 on: got {value!r}")
        if not isinstance(self.decay, Real) or not 0 <= self.decay <= 1:
            raise UsageError(f"decay must be a number from 0 to 1: got {self.decay!r}")
        for name in ("scale", "learning_rate"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 1e-30 <= value <= 1e30:  # what float32 can hold
                raise UsageError(f"{name} must be a number from 1e-30 to 1e30: got {value!r}")

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was learned, by name, for a file."""
        return {name: torch.tensor(getattr(self, name)) for name in self._shapes()}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `tensors` gave.

        Raises
        ------
        FormatError
            If names, shapes or dtypes are others.
        """
        for name, shape in self._shapes().items():
            found = tensors.get(name)
            if found is None or tuple(found.shape) != shape or found.dtype != torch.float32:
                raise FormatError(f"tensor {name!r} of shape {shape} is missing or has another")
            if not found.isfinite().all():
                raise FormatError(f"tensor {name!r} has values that are not finite")
            setattr(self, name, found.numpy())

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "hidden_weight_": (self.hidden, self.n_features_in_),
            "hidden_bias_": (self.hidden,),
            "output_weight_": (self.hidden,),
            "output_bias_": (),
        }


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Torch as it is when a process starts, whatever the caller has set; its state comes back."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.device("cpu"),
            torch.autocast("cpu", enabled=False),
            torch.random.fork_rng(devices=[]),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
