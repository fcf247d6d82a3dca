"""Candidates: how many are drawn, and which; arithmetic on arrays, no input or output.

A history of P weights with M admissible steps has P x M candidates (weight, t). Draw r of a weight
is entry r of a random permutation of the steps: uniform, and never the same step twice. As few
draws are made as the strata need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import SamplingError
from weightcast.store.keyed import below, words
from weightcast.store.permuting import first_entries
from weightcast.store.recipe import Recipe

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Quota:
    """How many candidates are drawn from a history, and how many samples its strata give.

    Attributes
    ----------
    draws : int
        Steps t for each weight, R.
    cuts : tuple of int
        Ranks of the candidates, the most changed first, at which strata begin and end.
    wanted, counts : tuple of int
        Samples that each stratum should give, and those that it gives.
    """

    draws: int
    cuts: tuple[int, ...]
    wanted: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """Candidates of each stratum."""
        return [high - low for low, high in pairwise(self.cuts)]


def quota(parameters: int, choices: int, recipe: Recipe) -> Quota:
    """Draw as few candidates as give every stratum its samples.

    Parameters
    ----------
    parameters : int
        Weights to sample from, P.
    choices : int
        Admissible steps, M.
    recipe : Recipe

    Raises
    ------
    SamplingError
        If all P x M candidates are too few, and the recipe does not take fewer, or there are none;
        the message says how many samples there can be.

    Examples
    --------
    >>> quota(1000, 50, Recipe(samples=1000)).draws, quota(1000, 50, Recipe(samples=1001)).draws
    (1, 2)
    >>> quota(10, 5, Recipe(samples=40, shares=(0.8, 0.1, 0.1), shortfall="fewer")).counts
    (25, 4, 4)
    """
    draws = _smallest_draws(parameters, choices, recipe)
    if draws is None and recipe.shortfall == "error":
        raise SamplingError(_why_too_few(parameters, choices, recipe))
    if draws is None:
        draws = min(recipe.draws or choices, choices)
    cuts = recipe.cuts(parameters * draws)
    sizes = [high - low for low, high in pairwise(cuts)]
    wanted = recipe.counts()
    given = tuple(min(pair) for pair in zip(wanted, sizes, strict=True))
    if not any(given):
        raise SamplingError(_why_too_few(parameters, choices, recipe))
    return Quota(draws, tuple(cuts), tuple(wanted), given)


def _why_too_few(parameters: int, choices: int, recipe: Recipe) -> str:
    ways = "record more steps, or raise the tolerance"
    if recipe.shortfall == "error":
        ways += ", or take fewer with --shortfall fewer (shortfall)"
    if recipe.draws is not None and recipe.draws > choices:
        return (
            f"{recipe.draws} steps t for each weight are more than the {choices} there are: {ways}"
        )
    some = f"{choices} steps t" if recipe.draws is None else f"{recipe.draws} draws of t"
    return (
        f"{recipe.samples} samples are more than exist: {parameters} weights x {some} in strata of "
        f"{_percent(recipe.shares)} give at most {_most_samples(parameters, choices, recipe)}: ask "
        f"for no more, {ways}"
    )


def _smallest_draws(parameters: int, choices: int, recipe: Recipe) -> int | None:
    if not parameters:
        return None
    fewest = math.ceil(recipe.samples / parameters)
    if recipe.draws is not None:
        fewest, choices = max(fewest, recipe.draws), min(choices, recipe.draws)
    return next((d for d in range(fewest, choices + 1) if _enough(parameters * d, recipe)), None)


def _enough(candidates: int, recipe: Recipe) -> bool:
    sizes = [high - low for low, high in pairwise(recipe.cuts(candidates))]
    return all(n <= size for n, size in zip(recipe.counts(), sizes, strict=True))


def _most_samples(parameters: int, choices: int, recipe: Recipe) -> int:
    """Largest number of samples that can be drawn.

    Strata and shares are rounded to whole numbers, so that what exists does not simply end at one
    number: try from above the bound on.
    """
    draws = choices if recipe.draws is None else min(recipe.draws, choices)
    sizes = [high - low for low, high in pairwise(recipe.cuts(parameters * draws))]
    bound = min(size / share for size, share in zip(sizes, recipe.shares, strict=True) if share)
    for samples in range(int(bound) + 2 * len(sizes), 0, -1):
        if _smallest_draws(parameters, choices, replace(recipe, samples=samples)) is not None:
            return samples
    return 0


def _percent(shares: tuple[float, ...]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)


def draw(
    seed: int, start: int, stop: int, draws: int, choices: int, run: int = 0
) -> tuple[Int, npt.NDArray[np.uint64]]:
    """Steps and keys of the candidates of a range of weights.

    Parameters
    ----------
    seed : int
    start, stop : int
        Range of weights, n = stop - start.
    draws : int
        Draws per weight, R; at most `choices`.
    choices : int
        Admissible steps, M.
    run : int
        Which history of the recipe.

    Returns
    -------
    chosen : int64 array, shape (R, n)
        Indices of admissible steps, the first R of a random permutation of them for each weight.
    keys : uint64 array, shape (R, n)
        Random keys, by which a stratum's samples are selected.
    """
    picks = np.empty((draws, stop - start), np.int64)
    keys = np.empty((draws, stop - start), np.uint64)
    for r in range(draws):
        word = words(seed, run << 32 | r, start, stop)
        picks[r], keys[r] = r + below(word[:, 0], choices - r), word[:, 2]
    return first_entries(picks, choices), keys


def tie_order(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """By what candidates of equal variation are ordered: the key, its low half first.

    The high half decides which candidates are chosen; if it ordered ties too, those in the upper
    of two strata would be the ones not chosen.
    """
    return keys << np.uint64(32) | keys >> np.uint64(32)
