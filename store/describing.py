"""What a dataset says of itself: as plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from weightcast.store.dataset import Dataset
from weightcast.store.dataset_format import Origin
from weightcast.store.recipe import Recipe


@dataclass(frozen=True)
class StratumInfo:
    """A stratum of one run.

    Attributes
    ----------
    samples, wanted, candidates : int
        Samples it gives, those it should give, and what they are chosen from.
    variation : (float, float), optional
        Least and largest |w(t) - w(0)| of its samples.
    ties : int
        Candidates that have exactly the variation of the cut below it.
    tied_at : float, optional
        That variation, where it is known: the next stratum has samples of it too, so that keys
        decided which candidates are above the cut.
    """

    samples: int
    wanted: int
    candidates: int
    variation: tuple[float, float] | None = None
    ties: int = 0
    tied_at: float | None = None


@dataclass(frozen=True)
class RunInfo:
    """What one history gives: its path, rows used, draws of t for each weight, and strata.

    Of a dataset, `t` is the least and the largest, `steps` how many there are, `weights` how many
    weights have a sample, and `validation` how many samples are held out. Of a plan, `t` is the
    range to draw from, and `weights` how many are drawn from. `read` is its stored bytes to read,
    None if its store does not list them.
    """

    path: str
    recorded: int
    draws: int
    weights: int
    t: tuple[int, int]
    steps: int
    strata: tuple[StratumInfo, ...]
    validation: int = 0
    read: int | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """What `describe_dataset` gives; `size` in bytes, `command` what would build it again."""

    path: str
    format: int
    dtype: str
    samples: int
    training: int
    validation: int
    size: int
    recipe: dict[str, Any]
    runs: tuple[RunInfo, ...]
    command: tuple[str, ...]


def describe_dataset(dataset: Dataset) -> DatasetInfo:
    """Where the samples of a dataset come from.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from weightcast.store import HistoryWriter, ParameterTable, build_dataset
    >>> folder = Path(tempfile.mkdtemp())
    >>> table = ParameterTable.of([("w", (10,), "float32", "weight")])
    >>> with HistoryWriter.create(folder / "run.zarr", table) as writer:
    ...     walk = np.float32(np.arange(100)[:, None] * np.arange(10))
    ...     writer.append(range(100), range(100), walk)
    >>> (run,) = describe_dataset(build_dataset(folder / "run.zarr", folder / "d.zarr", 40)).runs
    >>> [(s.samples, s.candidates) for s in run.strata]
    [(20, 20), (10, 10), (10, 10)]
    """
    validation = int(np.count_nonzero(dataset.validation))
    ends = np.searchsorted(dataset.run, np.arange(len(dataset.origins) + 1))
    return DatasetInfo(
        path=str(dataset.path),
        format=int(dataset.version),
        dtype=str(dataset.X.dtype),
        samples=len(dataset),
        training=len(dataset) - validation,
        validation=validation,
        size=sum(f.stat().st_size for f in dataset.path.rglob("*") if f.is_file()),
        recipe=dataset.recipe.to_json(),
        runs=tuple(
            _run(dataset, origin, slice(int(low), int(high)))
            for origin, low, high in zip(dataset.origins, ends[:-1], ends[1:], strict=True)
        ),
        command=_command(dataset),
    )


def _run(dataset: Dataset, origin: Origin, rows: slice) -> RunInfo:
    steps = np.unique(dataset.step[rows])
    return RunInfo(
        path=origin.path,
        recorded=origin.recorded,
        draws=origin.draws,
        weights=len(np.unique(dataset.parameter[rows])),
        t=(int(steps[0]), int(steps[-1])) if len(steps) else (0, 0),
        steps=len(steps),
        strata=tuple(_strata(dataset, origin, rows)),
        validation=int(np.count_nonzero(dataset.validation[rows])),
    )


def _strata(dataset: Dataset, origin: Origin, rows: slice) -> list[StratumInfo]:
    found: list[StratumInfo] = []
    below: float | None = None
    for stratum in reversed(range(len(dataset.recipe.shares))):  # each looks at the one below
        moved = dataset.variation[rows][dataset.stratum[rows] == stratum]
        span = (float(moved.min()), float(moved.max())) if len(moved) else None
        known = origin.candidates != ()  # not of format 1
        ties = origin.ties[stratum] if known else 0
        found.append(
            StratumInfo(
                samples=len(moved),
                wanted=origin.wanted[stratum] if known else len(moved),
                candidates=origin.candidates[stratum] if known else 0,
                variation=span,
                ties=ties,
                tied_at=span[0] if ties > 1 and span and span[0] == below else None,
            )
        )
        below = span[1] if span else None
    return found[::-1]


def _command(dataset: Dataset) -> tuple[str, ...]:
    """The command line that would build a dataset: what is not as it is by default."""
    words = ["weightcast", "dataset", "build", *(origin.path for origin in dataset.origins)]
    words += ["-o", str(dataset.path), "--samples", str(dataset.recipe.samples)]
    for field in fields(Recipe)[1:]:
        value = getattr(dataset.recipe, field.name)
        if value == field.default:
            continue
        option = f"--{field.name.replace('_', '-')}"
        if field.name in ("include", "exclude"):
            words += [word for glob in value for word in (option, glob)]
        elif value is True:
            words.append(option)
        elif isinstance(value, tuple):
            words += [option, ",".join(map(_text, value))]
        else:
            words += [option, _text(value)]
    return tuple(words)


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
