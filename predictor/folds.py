"""Samples of one or several datasets, divided so that no run is on both sides of a fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GroupKFold

from weightcast.predictor.seeing import require_finite
from weightcast.store import Dataset, Recipe, ShapeError, UsageError
from weightcast.store.columns import printed

Int = npt.NDArray[np.integer[Any]]
Float = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Pooled:
    """Samples of datasets of one context and horizon, one dataset after the other.

    Attributes
    ----------
    X : float array, shape (N, F)
        A single dataset's is memory-mapped, those of several are copied.
    y : float array, shape (N,)
    group : int array, shape (N,)
        Samples of one number stay together: those of a run, or of a weight where there is one run.
    by : {"run", "weight"}
        Which of the two.
    runs : int
        Different runs. A run of which several datasets have samples is one.
    recipe : Recipe
        Of the first dataset.
    """

    X: Float
    y: Float
    group: Int
    by: Literal["run", "weight"]
    runs: int
    recipe: Recipe

    @classmethod
    def of(cls, datasets: Sequence[Dataset]) -> Self:
        """Put datasets together.

        Raises
        ------
        UsageError
            If there is none.
        ShapeError
            If contexts or horizons differ.
        NonFiniteError
            If a sample is NaN or infinite.
        """
        if not datasets:
            raise UsageError("a comparison needs one dataset at least: got none")
        for dataset in datasets:
            _require_alike(datasets[0], dataset)
            require_finite(dataset)
        single = len(datasets) == 1
        X = datasets[0].X if single else np.concatenate([d.X for d in datasets])
        y = datasets[0].y if single else np.concatenate([d.y for d in datasets])
        run = _runs(datasets)
        runs = len(np.unique(run))
        if runs > 1:
            return cls(X, y, run, "run", runs, datasets[0].recipe)
        weight = np.concatenate([dataset.parameter for dataset in datasets])
        return cls(X, y, weight, "weight", runs, datasets[0].recipe)

    def folds(self, count: int, seed: int) -> list[tuple[Int, Int]]:
        """Rows to learn from and rows to test on, of every fold.

        Parameters
        ----------
        count : int
            At most so many; there are no more than groups.
        seed : int
            Of which groups are tested together.

        Raises
        ------
        UsageError
            If there are not two folds.
        """
        groups = len(np.unique(self.group))
        if min(count, groups) < 2:
            raise UsageError(
                f"cross-validation needs two folds at least: got folds {count}, and samples of "
                f"{groups} {self.by}s"
            )
        # keyed by the seed alone: the order of the samples does not matter
        splitter = GroupKFold(min(count, groups), shuffle=True, random_state=seed % 2**32)
        return list(splitter.split(self.y, groups=self.group))


def _require_alike(first: Dataset, other: Dataset) -> None:
    def what(dataset: Dataset) -> str:
        recipe = dataset.recipe
        several = ", ".join(map(str, recipe.horizons))
        return f"{dataset.path} has context {printed(recipe.context)} and horizon {several}"

    if (first.recipe.context, first.recipe.horizon) != (other.recipe.context, other.recipe.horizon):
        raise ShapeError(
            "datasets that are compared together must have one context and horizon: "
            f"{what(first)}, {what(other)}: build them with the same --context and --horizon"
        )


def _runs(datasets: Sequence[Dataset]) -> Int:
    """The run of each sample: numbers that are the same for one run in several datasets."""
    numbers: list[list[int]] = []
    count = 0
    for i, dataset in enumerate(datasets):
        numbers.append([])
        for run in range(len(dataset.origins)):
            same = (
                numbers[j][other]
                for j, before in enumerate(datasets[:i])
                for other in range(len(before.origins))
                if _same_run(before, other, dataset, run)
            )
            numbers[i].append(next(same, count))
            count += numbers[i][-1] == count
    of_each = zip(numbers, datasets, strict=True)
    return np.concatenate([np.array(n)[dataset.run] for n, dataset in of_each])


def _same_run(one: Dataset, i: int, two: Dataset, j: int) -> bool:
    """Whether two datasets have samples of one run.

    What both have drawn decides: an origin's digest is that of runs with other seeds too, and its
    path may be relative, or have changed. Only if they share no sample, the path has to do.
    """
    rows = [np.flatnonzero(d.run == run) for d, run in ((one, i), (two, j))]
    split = len(rows[0])
    key = np.zeros(sum(map(len, rows)), np.int64)
    for name in ("parameter", "step", "horizon"):
        of_both = [getattr(d, name)[r] for d, r in zip((one, two), rows, strict=True)]
        values, places = np.unique(np.concatenate(of_both), return_inverse=True)
        key = np.unique(key * len(values) + places, return_inverse=True)[1]
    _, a, b = np.intersect1d(key[:split], key[split:], return_indices=True)
    if not len(a):
        return one.origins[i].path == two.origins[j].path
    mine, theirs = rows[0][a], rows[1][b]
    return np.array_equal(one.X[mine], two.X[theirs]) and np.array_equal(one.y[mine], two.y[theirs])
