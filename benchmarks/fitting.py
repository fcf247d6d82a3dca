"""The paper's training on N0's history: how long it takes, and how good it gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from weightcast.experiments.recording import Mnist, recorded
from weightcast.predictor import (
    Forecaster,
    Introspection,
    LastValue,
    LinearFit,
    LinearIntrospection,
    QuadraticFit,
)
from weightcast.store import Dataset, build_dataset

EVERY = 10  # steps between N0's snapshots


Predict = Callable[[np.ndarray], np.ndarray]


@dataclass
class Fitted:
    """What fits with several seeds gave.

    Attributes
    ----------
    seconds : list of float
        Empty where there is nothing to learn.
    errors : list of float
        Mean absolute error on the weights that were held out, times 1000.
    """

    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


def dataset(folder: Path, data: Path, steps: int, samples: int) -> Dataset:
    """The paper's 800,000 samples of N0's history, which is made if the folder has none."""
    history = recorded(folder, Mnist.of(data), seed=0, steps=steps, every=EVERY, progress=_show)
    return build_dataset(history, folder / "fitting.zarr", samples, validation=0.1, overwrite=True)


def fits(drawn: Dataset, seeds: int, steps: int) -> dict[str, Fitted]:
    """Fit what learns with every seed, in turns; and measure what learns nothing."""
    learned: dict[str, Callable[[int], Predict]] = {
        "Introspection": lambda seed: _fit(Introspection(steps=steps, random_state=seed), drawn),
        "the same in a plain torch loop": lambda seed: plain_loop(drawn, seed, steps),
        "linear Introspection": lambda seed: _fit(
            LinearIntrospection(steps=steps, random_state=seed), drawn
        ),
    }
    found = {name: Fitted() for name in learned}
    for seed in range(seeds):
        for name, fit in learned.items():
            begin = time.perf_counter()
            predict = fit(seed)
            found[name].seconds.append(time.perf_counter() - begin)
            found[name].errors.append(_error(predict, drawn))
    simple = {
        "last value": LastValue(),
        "line through w(t) and w(0.7t)": LinearFit(context=(1.0, 0.7)),
        "line through all 4": LinearFit(),
        "parabola through all 4": QuadraticFit(),
    }
    for name, forecaster in simple.items():
        ready = forecaster.ready()
        columns = drawn.recipe.sees.places(ready.context_)
        found[name] = Fitted(
            errors=[_error(lambda x, f=ready, c=columns: f.predict(x[:, c]), drawn)]
        )
    return found


def plain_loop(drawn: Dataset, seed: int, steps: int) -> Predict:
    """The paper's training as one would write it first, with samples in memory."""
    torch.manual_seed(seed)
    x, y = (torch.from_numpy(v[drawn.training_rows]) * 1000 for v in (drawn.X, drawn.y))
    network = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 8000, 0.5)
    for _ in range(steps):
        batch = torch.randint(len(x), (20,))
        loss = nn.functional.l1_loss(network(x[batch])[:, 0], y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return lambda x: network(torch.from_numpy(x) * 1000)[:, 0].detach().numpy() / 1000


def _fit(forecaster: Forecaster, drawn: Dataset) -> Predict:
    return forecaster.fit(drawn.X, drawn.y, rows=drawn.training_rows).predict


def _error(predict: Predict, drawn: Dataset) -> float:
    rows = drawn.validation_rows
    return 1000 * float(np.abs(predict(drawn.X[rows]) - drawn.y[rows]).mean())


def _show(what: str, done: int, total: int) -> None:
    print(f"\r{what}: {done}/{total}", end="" if done < total else "\n", flush=True)
