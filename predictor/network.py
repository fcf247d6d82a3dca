"""What the networks have in common: their options, their training and what a file keeps of them."""

from __future__ import annotations

from abc import abstractmethod
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.regimen import Regimen
from weightcast.predictor.samples import Samples
from weightcast.predictor.scaling import Scaling, check_scaling
from weightcast.predictor.training import Progress, train
from weightcast.predictor.validating import drawn_seed
from weightcast.store import FormatError, UsageError
from weightcast.store.horizon import plain

_COUNTS = ("hidden", "decay_every", "batch_size", "steps", "validate_every")
_MOST = {"hidden": 1 << 16, "batch_size": 1 << 24}  # what memory surely holds


class Network(Forecaster):
    """A small network that is trained on samples; see `Introspection` for the options.

    Subclasses set the options in ``__init__``, and implement `_network`, `_shapes` and `_kernel`.

    Attributes
    ----------
    curve_ : list of (int, float, float or None)
        Every `validate_every` steps: the step, and the mean absolute errors on the batches since
        the point before and on the validation rows; in the weights' own units.
    training_error_ : float
        Mean absolute error over the last tenth of the steps taken, in the weights' own units.
    steps_ : int
        Steps taken.
    """

    hidden: int
    scale: float
    scaling: str
    target: str
    learning_rate: float
    decay_every: int
    decay: float
    batch_size: int
    steps: int
    validate_every: int
    patience: int | None
    random_state: Any
    curve_: list[tuple[int, float, float | None]]
    training_error_: float
    steps_: int

    @abstractmethod
    def _network(self) -> nn.Module:
        """The network, [n, F] -> [n, 1], with parameters in the order of `_shapes`."""

    @abstractmethod
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the learned attributes: float32 arrays."""

    def _scaling(self) -> Scaling:
        return Scaling(self.scaling, self.scale, self.target, self.sees)

    def _learn(
        self,
        X: npt.NDArray[Any],
        y: npt.NDArray[Any],
        *,
        rows: npt.NDArray[np.int64] | None = None,
        validation_rows: npt.NDArray[np.int64] | None = None,
        progress: Progress | None = None,
        checkpoint: str | Path | None = None,
        **options: Any,
    ) -> None:
        """Train on `rows` of X and y, all of them by default; see `train`."""
        if options:
            raise TypeError(f"fit takes no {min(options)!r}")
        seed = drawn_seed(self.random_state)
        scaling = self._scaling()
        samples = Samples(X, y, rows, scaling)
        held = None if validation_rows is None else Samples(X, y, validation_rows, scaling)
        about = self._about(seed, samples, held) if checkpoint is not None else None
        regimen = Regimen(
            seed,
            self.batch_size,
            self.steps,
            self.learning_rate,
            self.decay_every,
            self.decay,
            self.validate_every,
            self.patience,
        )
        trained = train(
            self._network,
            samples,
            regimen,
            held_out=held,
            progress=progress,
            checkpoint=checkpoint,
            about=about,
        )
        self.curve_, self.steps_ = trained.curve, trained.steps
        self.training_error_ = trained.training_error
        parameters = trained.network.parameters()
        for (name, shape), values in zip(self._shapes().items(), parameters, strict=True):
            setattr(self, name, values.detach().numpy().reshape(shape))

    def _about(self, seed: int, samples: Samples, held: Samples | None) -> dict[str, Any]:
        """What the state of a training must agree with to be gone on from."""
        options = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in self.get_params().items()
            if name != "random_state"  # the seed says more
        }
        return {
            "model": type(self).__name__,
            **options,
            "context": self.context_,
            "horizon": plain(self.horizon),
            "seed": seed,
            "samples": samples.digest(),
            "validation samples": held.digest() if held else None,
        }

    def check_options(self) -> None:
        """Check the options; see `Forecaster.check_options`."""
        super().check_options()
        counts = (*_COUNTS, "patience") if self.patience is not None else _COUNTS
        for name in counts:
            value = getattr(self, name)
            most = _MOST.get(name, 1 << 48)
            if not isinstance(value, Integral) or not 1 <= int(value) <= most:
                raise UsageError(f"{name} must be a whole number from 1 to {most}: got {value!r}")
        if not isinstance(self.decay, Real) or not 0 <= self.decay <= 1:
            raise UsageError(f"decay must be a number from 0 to 1: got {self.decay!r}")
        rate = self.learning_rate
        if not isinstance(rate, Real) or not 1e-30 <= rate <= 1e30:  # what float32 can hold
            raise UsageError(f"learning_rate must be a number from 1e-30 to 1e30: got {rate!r}")
        check_scaling(self.scaling, self.scale, self.target)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was learned, by name, for a file."""
        return {name: torch.tensor(getattr(self, name)) for name in self._shapes()}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `tensors` gave.

        Raises
        ------
        FormatError
            If names, shapes or dtypes are others, or values are not finite.
        UsageError
            If the scaling does not fit the context.
        """
        self._scaling()
        shapes = self._shapes()
        if unknown := tensors.keys() - shapes.keys():
            raise FormatError(f"tensor {min(unknown)!r} is not one of {', '.join(shapes)}")
        for name, shape in shapes.items():
            found = tensors.get(name)
            if found is None or tuple(found.shape) != shape or found.dtype != torch.float32:
                raise FormatError(f"tensor {name!r} of shape {shape} is missing or has another")
            if not found.isfinite().all():
                raise FormatError(f"tensor {name!r} has values that are not finite")
            setattr(self, name, found.numpy())
