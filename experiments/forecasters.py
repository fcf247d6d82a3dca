"""The forecasters that experiments jump by: shipped, untrained, or fitted to N0's history first.

::

    N0 --record--> n0-seed0-10000.zarr --sample--> k2.zarr   --fit--> linear-introspection, noise
                                       --sample--> k2.2.zarr --fit--> introspection@2.2

A user's own is a forecaster that is passed to an arm in Python, or a file: see `experiments.own`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from weightcast.experiments.agreement import FORECASTER
from weightcast.experiments.experiment import Arm
from weightcast.experiments.mnist import digests
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
from weightcast.predictor.files import read_header
from weightcast.predictor.headers import Header
from weightcast.store import Dataset, InputNotFoundError, UsageError, build_dataset

Progress = Callable[[str, int, int], None]

FOLDER = "forecasters"  # of a results folder
FITTED = ("linear-introspection", "introspection@2.2", "noise", "noise/10")
STEPS, EVERY, SEED = 10_000, 10, 0  # of N0's run, as `experiments.pretraining` has them
FIT_STEPS = 30_000
SAMPLES = 800_000
_FIT = re.compile(r"(linear-fit|quadratic-fit)@([0-9]+(?:[.][0-9]+)?)")
_FILE = re.compile(r"[^/]+([.]safetensors|[.]skops) sha256:([0-9a-f]{64})")


def forecaster_for(given: str | Forecaster, folder: str | Path) -> Forecaster:
    """What an arm of an experiment jumps by.

    Parameters
    ----------
    given : str or Forecaster
        As an arm has it: a name of `weightcast.predictor.load`; a polynomial fit and its horizon,
        as ``quadratic-fit@1.25``; one of `FITTED`, which `prepare` has fitted; a file's name and
        sha256, of which `experiments.own` keeps a copy; or the forecaster itself.
    folder : str or Path
        Results folder.

    Returns
    -------
    Forecaster
        Fitted.

    Raises
    ------
    InputNotFoundError
        If it is to be fitted first, or there is no such forecaster.
    UsageError
        If it is the path of a file, which may have another forecaster tomorrow.
    """
    if isinstance(given, Forecaster):
        return given.ready()
    if given in FITTED:
        return load(file_of(given, folder))
    if match := _FIT.fullmatch(given):
        return make_forecaster(match[1], horizon=float(match[2])).ready()
    if _FILE.fullmatch(given):
        return load(copy_of(given, folder))
    if Path(given).is_file():
        raise UsageError(f"an arm has a forecaster's name or itself: got a file, load({given!r})")
    return load(given)


def identity(given: str | Forecaster) -> str:
    """What an arm jumps by, as results say it: a forecaster itself by what it forecasts.

    Examples
    --------
    >>> from weightcast.predictor import LinearFit
    >>> identity("line"), identity(LinearFit()) == identity(LinearFit(horizon=3))
    ('line', False)
    """
    if isinstance(given, str):
        return given
    known = given.ready()
    rows = torch.rand(len(known.context_), 64, generator=torch.Generator().manual_seed(0))
    told = repr((known.context_, known.horizons)).encode()
    digest = hashlib.sha256(told + known.forecast(rows).numpy().tobytes())
    return f"{type(known).__name__} sha256:{digest.hexdigest()}"


def copy_of(given: str, folder: str | Path) -> Path:
    """Where a results folder has the copy of a file of that name and sha256."""
    match = _FILE.fullmatch(given)
    if match is None:
        raise UsageError(f"a forecaster's file is known by its name and sha256: got {given!r:.200}")
    return Path(folder, FOLDER, match[2] + match[1])


def file_of(name: str, folder: str | Path) -> Path:
    """Where a fitted forecaster stands in a results folder."""
    return Path(folder, FOLDER, f"{name.replace('/', '-')}.safetensors")


def prepare(name: str, folder: str | Path, mnist: str | Path, progress: Progress) -> None:
    """Fit one of `FITTED` to a history of N0, which is recorded first; or find it fitted so.

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
    if name not in FITTED:
        return
    place, path, made = Path(folder, FOLDER), file_of(name, folder), _made_of(mnist)
    if path.exists() and read_header(path).card.get("made", made) == made:  # older cards have none
        return
    place.mkdir(parents=True, exist_ok=True)
    dataset = _dataset(place, 2.2 if name.endswith("@2.2") else 2.0, mnist, progress)
    forecaster = _unfitted(name, dataset)
    options: Any = {} if isinstance(forecaster, GaussianNoise) else {"progress": progress}
    forecaster.fit(dataset.X, dataset.y, **options)
    card = {"histories": "N0 on MNIST", "seed": SEED, "made": made}
    save(forecaster, path, card=card, overwrite=True)


def _made_of(mnist: str | Path) -> dict[str, Any]:
    """What a fit depends on but for code and seed, as JSON."""
    files = {**digests(mnist, "train"), **digests(mnist, "t10k")}
    lengths = {"steps": STEPS, "every": EVERY, "samples": SAMPLES, "fit_steps": FIT_STEPS}
    return {"sha256": files, **lengths}


def digest_of(forecaster: Forecaster) -> str:
    """SHA-256 of what a fitted forecaster forecasts by: its kind, context, options and tensors.

    Options at their default do not count, so that a new one changes no digest.

    Examples
    --------
    >>> line, same, other = (make_forecaster("linear-fit", horizon=h) for h in (2, 2, 1.5))
    >>> digest_of(line) == digest_of(same), digest_of(line) == digest_of(other)
    (True, False)
    """
    header, usual = Header.of(forecaster), type(forecaster)().get_params(deep=False)
    given = forecaster.get_params(deep=False)
    options = {k: v for k, v in header.parameters.items() if given[k] != usual[k]}
    text = json.dumps([header.model, header.context, options], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(forecaster.tensors().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def known_digest(arm: Arm, folder: str | Path) -> dict[str, str]:
    """A jumping arm's digest of its forecaster, as results have it; not if it is fitted later."""
    if not arm.jumps or not isinstance(arm.forecaster, str) or _FILE.fullmatch(arm.forecaster):
        return {}  # the arm itself says it
    try:
        return {FORECASTER: digest_of(forecaster_for(arm.forecaster, folder))}
    except InputNotFoundError:
        return {}


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
