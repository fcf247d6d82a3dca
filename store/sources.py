"""One history of a dataset: which of its weights are candidates, and what it gives."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.admissible import admissible
from weightcast.store.errors import SamplingError, UsageError
from weightcast.store.history import History
from weightcast.store.parameters import ParameterTable, matches
from weightcast.store.recipe import Recipe
from weightcast.store.remote import is_remote
from weightcast.store.sampling import Quota, quota
from weightcast.store.tensors import first_scales

Int = npt.NDArray[np.int64]

ALL_KEYS = 1 << 64


@dataclass(frozen=True)
class Source:
    """One history of a dataset, and what it gives.

    Attributes
    ----------
    run : int
        Its place among the histories.
    path : str
        Absolute, or a URL.
    recorded : int
        Rows that are used: those that were committed when the plan was made.
    touched : int
        Rows of the chunks that are decoded.
    digest : str
        SHA-256 of its parameter table and those steps.
    recipe : Recipe
        The recipe, with the samples that this history gives.
    quota : Quota
    choices : int
        Admissible pairs of a step t and a horizon, M.
    parameters, selected : int
        Weights of the history, and those that are sampled from.
    spans : tuple of (int, int)
        Ranges of the selected weights.
    chunks : (int, int)
        Weights and steps of a chunk.
    dtype : str
        Of its weights.
    least_key : int
        Only candidates with a smaller key can be chosen, almost surely; if not, all are kept.
    arguments : tuple
        What opens it again.
    table : ParameterTable
    scales : tuple of float
        Of the fact ``scale``: one for each tensor, if the recipe's context asks for it; here, so
        that no worker reads a whole snapshot.
    """

    run: int
    path: str
    recorded: int
    touched: int
    digest: str
    recipe: Recipe
    quota: Quota
    choices: int
    parameters: int
    selected: int
    spans: tuple[tuple[int, int], ...]
    chunks: tuple[int, int]
    dtype: str
    least_key: int
    arguments: tuple[Any, ...] = field(repr=False, compare=False)
    table: ParameterTable = field(repr=False)
    scales: tuple[float, ...] = field(default=(), repr=False)

    @property
    def candidates(self) -> int:
        """Weights times draws."""
        return self.selected * self.quota.draws

    @property
    def kept(self) -> int:
        """Candidates whose values go to the scratch files, about."""
        return round(self.candidates * self.least_key / ALL_KEYS)

    @property
    def points(self) -> float:
        """Values that are gathered for each weight, about."""
        share = self.least_key / ALL_KEYS
        return 1 + self.quota.draws * (1 + share * len(self.recipe.sees.points))

    def chosen_weights(self, low: int, high: int) -> Int:
        """Selected weights of a range, as indices from `low`."""
        parts = []
        for a, b in self.spans[bisect_right(self.spans, low, key=itemgetter(1)) :]:
            if a >= high:
                break
            parts.append(np.arange(max(a, low) - low, min(b, high) - low))
        return np.concatenate(parts) if parts else np.array([], np.int64)

    def cells(self) -> list[int]:
        """Rows of chunks that hold selected weights, by number."""
        width = self.chunks[0]
        touched = (range(a // width, -(-b // width)) for a, b in self.spans)
        return list(dict.fromkeys(chain.from_iterable(touched)))


def digest(history: History, recorded: int) -> str:
    """What tells one history from another: its parameters and the steps that are used."""
    table = json.dumps(history.parameters.to_json(), sort_keys=True)
    steps = np.ascontiguousarray(history.steps[:recorded], "<i8")
    return hashlib.sha256(table.encode() + steps.tobytes()).hexdigest()


def kept_dtype(source: Source) -> np.dtype[np.void]:
    """A candidate that may be chosen: which it is, its variation, and its columns and target."""
    return np.dtype(
        [
            ("weight", "i8"),
            ("draw", "i4"),
            ("choice", "i4"),
            ("key", "u8"),
            ("variation", source.dtype),
            ("y", source.dtype),
            ("X", source.dtype, (len(source.recipe.context),)),
        ]
    )


def plan_source(history: History, recipe: Recipe, run: int, recorded: int | None = None) -> Source:
    """Plan what one history gives, of its first rows if told how many; errors name it."""
    recorded = len(history) if recorded is None else recorded
    if not 0 <= recorded <= len(history):
        raise UsageError(f"{history.path} has {len(history)} rows: {recorded} cannot be used")
    spans = tuple(_spans(history.parameters, recipe))
    selected = sum(high - low for low, high in spans)
    if not history.parameters.size:
        raise SamplingError(f"{history.path} holds no weights: record a model that has some")
    if not selected:
        raise UsageError(
            f"include {list(recipe.include)} and exclude {list(recipe.exclude)} select none of the "
            f"parameters of {history.path}: 'weightcast info' lists them"
        )
    try:
        choices = admissible(history.steps[:recorded], recipe)
        given = quota(selected, len(choices), recipe)
    except SamplingError as error:
        raise SamplingError(f"{history.path}: {error}") from error
    return Source(
        run=run,
        path=str(_absolute(history.path)),
        recorded=recorded,
        touched=_touched(choices.used(), recorded, int(history.weights.chunks[1])),
        digest=digest(history, recorded),
        recipe=recipe,
        quota=given,
        choices=len(choices),
        parameters=history.parameters.size,
        selected=selected,
        spans=spans,
        chunks=(int(history.weights.chunks[0]), int(history.weights.chunks[1])),
        dtype=str(history.weights.dtype),
        least_key=_least_key(given),
        arguments=(_absolute(history.arguments[0]), history.arguments[1]),
        table=history.parameters,
        scales=first_scales(history) if "scale" in recipe.sees.facts else (),
    )


def _absolute(place: Any) -> Any:
    """A local path that is the same in every working directory; a URL or store as it is."""
    return place if is_remote(place) else Path(place).absolute()


def _touched(rows: Int, recorded: int, block: int) -> int:
    starts = np.unique(rows // block) * block
    return int((np.minimum(starts + block, recorded) - starts).sum())


def _spans(table: ParameterTable, recipe: Recipe) -> Iterator[tuple[int, int]]:
    """Ranges of the selected weights, neighbours joined."""
    low = high = 0
    for p in table:
        if not p.size or not matches(p.name, recipe.include, recipe.exclude):
            continue
        if p.offset > high and high > low:
            yield low, high
        low, high = (low if p.offset == high and high > low else p.offset), p.stop
    if high > low:
        yield low, high


def _least_key(given: Quota) -> int:
    """A key that enough candidates of each stratum stay below: six deviations above the mean."""
    needed = 0.0
    for count, size in zip(given.counts, given.sizes, strict=True):
        share = count / max(size, 1)
        margin = 6 * math.sqrt(share * (1 - share) / max(size, 1)) + 10 / max(size, 1)
        needed = max(needed, share + margin if count else 0.0)
    return ALL_KEYS if needed >= 1 else int(needed * ALL_KEYS)
