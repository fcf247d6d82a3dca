"""Groups that errors are told apart by: strata, kinds of parameters, t and horizons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store import Dataset, FormatError, History, UsageError
from weightcast.store.horizon import Horizon

GROUPINGS = ("stratum", "kind", "t", "horizon")

Int = npt.NDArray[np.integer[Any]]


def checked(by: Sequence[str]) -> list[str]:
    """Groupings in their order; UsageError if one is unknown."""
    unknown = [name for name in by if name not in GROUPINGS]
    if unknown:
        raise UsageError(f"errors are grouped by {', '.join(GROUPINGS)}: got {unknown[0]!r:.80}")
    return [name for name in GROUPINGS if name in by]


def of_samples(
    dataset: Dataset, rows: Int, by: Sequence[str]
) -> tuple[dict[str, Sequence[str]], dict[str, Int]]:
    """Names of the groups of each grouping, and which group each of some samples is in."""
    kinds = dataset.kinds() if "kind" in by else None
    octave = np.frexp(dataset.step[rows])[1] - 1  # t is from 2 ** octave on
    strata = len(dataset.recipe.shares)
    found: dict[str, tuple[Sequence[str], Int]] = {
        "stratum": ([f"stratum {s}" for s in range(strata)], dataset.stratum[rows]),
        "t": ([f"t = {1 << o:,} to {(2 << o) - 1:,}" for o in range(63)], octave.clip(min=0)),
        "horizon": (named(dataset.recipe.horizons), dataset.horizon[rows]),
    }
    if kinds is not None:
        names, places = np.unique(kinds[rows], return_inverse=True)
        found["kind"] = ([str(name) for name in names], places)
    chosen = {name: found[name] for name in by if name in found and found[name][0]}
    for name, (known, place) in chosen.items():
        if not 0 <= place.min() <= place.max() < len(known):
            raise FormatError(f"{dataset.path} is damaged: a sample is of no known {name}")
    return {n: names for n, (names, _) in chosen.items()}, {n: p for n, (_, p) in chosen.items()}


def of_weights(history: History) -> tuple[list[str], Int]:
    """Kinds of parameters, and which of them each weight is of."""
    kinds = sorted({p.kind for p in history.parameters})
    each = [kinds.index(p.kind) for p in history.parameters]
    return list(kinds), np.repeat(np.array(each, np.int8), [p.size for p in history.parameters])


def named(several: Sequence[Horizon]) -> list[str]:
    """Names of horizons; none of a single one."""
    return [f"to {horizon}" for horizon in several] if len(several) > 1 else []
