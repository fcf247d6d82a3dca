"""The forecasters that experiments jump by: shipped, untrained, or fitted to N0's history first.

::

    N0 --record--> n0-seed0-10000.zarr --sample--> k2.zarr   --fit--> linear-introspection, noise
                                       --sample--> k2.2.zarr --fit--> introspection@2.2
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightcast.experiments.recording import Mnist, recorded
from weightcast.predictor import (
    Forecaster,
    GaussianNoise,
    Introspection,
    LinearIntrospection,
    load,
    make_forecaster,
    save,
)
from weightcast.store import Dataset, UsageError, build_dataset

Progress = Callable[[str, int, int], None]

FOLDER = "forecasters"  # of a results folder
FITTED = ("linear-introspection", "introspection@2.2", "noise", "noise/10")
STEPS, EVERY, SEED = 10_000, 10, 0  # of N0's run, as `experiments.pretraining` has them
FIT_STEPS = 30_000
SAMPLES = 800_000


def forecaster_for(name: str, folder: str | Path) -> Forecaster:
    """A forecaster by its name in an experiment's entry.

    Parameters
    ----------
    name : str
        A name of `weightcast.predictor.load`; a polynomial fit and its horizon, as
        ``quadratic-fit@1.25``; or one of `FITTED`, which `prepare` has fitted.
    folder : str or Path
        Results folder.

    Returns
    -------
    Forecaster
        Fitted.

    Raises
    ------
    InputNotFoundError
        If it is to be fitted first.
    """
    if name in FITTED:
        return load(file_of(name, folder))
    if match := re.fullmatch(r"(linear-fit|quadratic-fit)@([\d.]+)", name):
        return make_forecaster(match[1], horizon=float(match[2])).ready()
    return load(name)


def file_of(name: str, folder: str | Path) -> Path:
    """Where a fitted forecaster stands in a results folder."""
    return Path(folder, FOLDER, f"{name.replace('/', '-')}.safetensors")


def prepare(name: str, folder: str | Path, mnist: str | Path, progress: Progress) -> None:
    """Fit one of `FITTED`, if its file is not there: to a history of N0, which is recorded first.

    Parameters
    ----------
    name : str
        Others need nothing.
    folder : str or Path
        Results folder.
    mnist : str or Path
        Folder of MNIST's files.
    progress : callable
        Called with (what, done, total).
    """
    if name not in FITTED or file_of(name, folder).exists():
        return
    place = Path(folder, FOLDER)
    place.mkdir(parents=True, exist_ok=True)
    dataset = _dataset(place, 2.2 if name.endswith("@2.2") else 2.0, mnist, progress)
    forecaster = _unfitted(name, dataset)
    options: Any = {} if isinstance(forecaster, GaussianNoise) else {"progress": progress}
    forecaster.fit(dataset.X, dataset.y, **options)
    save(forecaster, file_of(name, folder), card={"histories": "N0 on MNIST", "seed": SEED})


def _dataset(place: Path, horizon: float, mnist: str | Path, progress: Progress) -> Dataset:
    data = Mnist.of(mnist)
    history = recorded(place, data, seed=SEED, steps=STEPS, every=EVERY, progress=progress)
    options: Any = {"seed": SEED, "overwrite": True, "progress": progress}
    return build_dataset(history, place / f"k{horizon:g}.zarr", SAMPLES, horizon=horizon, **options)


def _unfitted(name: str, dataset: Dataset) -> Forecaster:
    if name == "linear-introspection":
        return LinearIntrospection(steps=FIT_STEPS, random_state=SEED)
    if name == "introspection@2.2":
        return Introspection(horizon=2.2, steps=FIT_STEPS, random_state=SEED)
    if name == "noise":
        return GaussianNoise(random_state=SEED)
    if name == "noise/10":
        learned = GaussianNoise(random_state=SEED).fit(dataset.X, dataset.y)
        return GaussianNoise(learned.std_ / 10, random_state=SEED)
    raise UsageError(f"no recipe for the forecaster {name!r}: there are {', '.join(FITTED)}")
