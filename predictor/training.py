"""One training loop for all networks; what it draws depends on the seed and the step only.

::

    step       0 ........ 500 ........ 1000 ........ 1500 ........      batches of a stretch are
    stretches  |-----------|-------------|-------------|------          gathered in one read
                                    validate     state to disk: about every 10 s, and at the end

A training that was interrupted goes on from its state bit for bit as if it never had been.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from weightcast.predictor.regimen import Regimen
from weightcast.predictor.resuming import State, read_state, write_state
from weightcast.predictor.samples import Batch, Samples
from weightcast.predictor.threads import one_thread, plain_torch
from weightcast.store import UsageError
from weightcast.store.output import check_writable
from weightcast.store.remote import require_local

Progress = Callable[[str, int, int], None]

_VALIDATED = 1 << 16  # held-out samples that a validation takes, spread evenly over all of them
_BLOCK = 4096  # of them at once
_SECONDS = 10.0  # between two states on disk


@dataclass(frozen=True)
class Trained:
    """What training gave; errors are mean absolute ones, in the weights' own units."""

    network: nn.Module
    steps: int
    training_error: float
    curve: list[tuple[int, float, float | None]]


def train(
    make: Callable[[], nn.Module],
    samples: Samples,
    regimen: Regimen,
    *,
    held_out: Samples | None = None,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    about: dict[str, Any] | None = None,
) -> Trained:
    """Train a network.

    Parameters
    ----------
    make : callable
        Makes the network, [n, F] -> [n, 1], from torch's global generator.
    samples : Samples
        To learn from.
    regimen : Regimen
    held_out : Samples, optional
        To validate on.
    progress : callable, optional
        Called with ("fit", steps taken, all steps).
    checkpoint : str or Path, optional
        File of the training's state. Training goes on from one that is there; it stays when
        training is done.
    about : dict, optional
        What the state must agree with to be gone on from; JSON-able.

    Returns
    -------
    Trained

    Raises
    ------
    UsageError
        If there is nothing to learn from or validate on, training diverges, or the state is of
        another training; the message says what differs.
    FormatError
        If `checkpoint` is not a state, or damaged.

    Examples
    --------
    >>> from weightcast.predictor.scaling import Scaling
    >>> from weightcast.store import Context
    >>> X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> samples = Samples(X, 3 * X[:, 0], None, Scaling("fixed", 1.0, "value", Context((1.0,))))
    >>> regimen = Regimen(0, 16, 500, 0.05, 200, 0.5, 100, None)
    >>> trained = train(lambda: nn.Linear(1, 1), samples, regimen)
    >>> trained.steps, round(trained.network.weight.item(), 1)
    (500, 3.0)
    """
    if not len(samples):
        raise UsageError("there must be samples to learn from: got no rows")
    if regimen.patience is not None and not held_out:
        raise UsageError("patience needs validation_rows: hold some samples out, or leave it None")
    if checkpoint is not None:
        require_local(checkpoint)
    with plain_torch(), one_thread():
        torch.manual_seed(regimen.seed)
        with torch.device("cpu"):
            network = make()
        loop = _Loop(network, samples, regimen, held_out)
        loop.run(progress, None if checkpoint is None else Path(checkpoint), about or {})
        return loop.result()


class _Loop:
    def __init__(
        self, network: nn.Module, samples: Samples, regimen: Regimen, held_out: Samples | None
    ) -> None:
        self.network, self.samples, self.regimen = network, samples, regimen
        self.held = held_out.spread(_VALIDATED) if held_out else None
        self.optimizer = torch.optim.Adam(network.parameters(), fused=True)
        self.state = State.of(network, keeps_best=regimen.patience is not None)

    def run(self, progress: Progress | None, path: Path | None, about: dict[str, Any]) -> None:
        if path is not None:
            check_writable(path)
        if path is not None and (found := read_state(path, about, self.state, self.regimen)):
            self.state = found
            self.state.into(self.network, self.optimizer)
        try:
            saved = time.monotonic()
            while not self.regimen.ends(self.state.curve, self.state.step):
                self._advance(self.regimen.stretch(self.state.step))
                if path is not None and time.monotonic() - saved > _SECONDS:
                    write_state(path, about, self.state)
                    saved = time.monotonic()
                if progress is not None:
                    progress("fit", self.state.step, self.regimen.steps)
            if path is not None:
                write_state(path, about, self.state)
        except (KeyboardInterrupt, SystemExit):
            # The state is of the last whole stretch: it has no half of a step in it.
            if path is not None:
                write_state(path, about, self.state)
            raise

    def _advance(self, stop: int) -> None:
        """Take the steps of a stretch, then replace the state."""
        start, losses = self.state.step, []
        batches = self.samples.batches(self.regimen.seed, self.regimen.batch_size, start, stop)
        for step, batch in zip(range(start, stop), batches, strict=True):
            loss = _errors(self.network, batch).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.param_groups[0]["lr"] = self.regimen.rate(step)
            self.optimizer.step()
            losses.append(loss.detach())
        after = self.state.after(self.network, self.optimizer, torch.stack(losses))
        if self.regimen.validates(stop):
            error = np.nan if self.held is None else self._validation_error(self.held)
            after = after.with_point(error, self.samples.scaling.factor)
        if not after.finite(validated=self.held is not None):
            raise UsageError(
                f"training diverged at learning_rate {self.regimen.learning_rate:g}: choose a "
                "smaller one"
            )
        self.state = after

    @torch.no_grad()
    def _validation_error(self, held: Batch) -> float:
        total = sum(_errors(self.network, part).double().sum() for part in held.blocks(_BLOCK))
        return float(total) / len(held) / self.samples.scaling.factor

    def result(self) -> Trained:
        state, factor = self.state, self.samples.scaling.factor
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(state.best.get(name, parameter))
        last_tenth = state.losses[-max(state.step // 10, 1) :]
        curve = [(s, e, None if np.isnan(v) else v) for s, e, v in state.curve]
        return Trained(self.network, state.step, float(last_tenth.mean()) / factor, curve)


def _errors(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Absolute errors, shape (n,), times the scaling's factor."""
    output: torch.Tensor = network(batch.inputs)[:, 0]
    if batch.gain is not None:
        output = output * batch.gain
    return (output - batch.target).abs()
