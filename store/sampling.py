"""Candidates and their selection: arithmetic on arrays, no input or output.

A history of P weights with M admissible steps has P x M candidates (weight, t). Draw r of weight i
takes the step ``(a_i + r b_i) mod M``, with a_i and b_i random and b_i prime to M: uniform, and
never the same step twice for one weight. As many draws are made as the strata need.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import SamplingError
from weightcast.store.keyed import below, words
from weightcast.store.recipe import Recipe

Int = npt.NDArray[np.int64]


def draws_needed(parameters: int, choices: int, recipe: Recipe) -> int:
    """Smallest number of draws per weight for which every stratum has enough candidates.

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
        If all P x M candidates are too few; the message says how many samples there can be.

    Examples
    --------
    >>> draws_needed(1000, 50, Recipe(samples=1000)), draws_needed(1000, 50, Recipe(samples=1001))
    (1, 2)
    """
    draws = _smallest_draws(parameters, choices, recipe)
    if draws is None:
        raise SamplingError(
            f"{recipe.samples} samples are more than exist: {parameters} weights x {choices} steps "
            f"t in strata of {_percent(recipe.shares)} give at most "
            f"{_most_samples(parameters, choices, recipe)}: ask for no more, record more steps, "
            "or raise the tolerance"
        )
    return draws


def _smallest_draws(parameters: int, choices: int, recipe: Recipe) -> int | None:
    if not parameters:
        return None
    fewest = math.ceil(recipe.samples / parameters)
    return next((d for d in range(fewest, choices + 1) if _enough(parameters * d, recipe)), None)


def _enough(candidates: int, recipe: Recipe) -> bool:
    sizes = [high - low for low, high in pairwise(recipe.cuts(candidates))]
    return all(n <= size for n, size in zip(recipe.counts(), sizes, strict=True))


def _most_samples(parameters: int, choices: int, recipe: Recipe) -> int:
    """Largest number of samples that can be drawn.

    Strata and shares are rounded to whole numbers, so that what exists does not simply end at one
    number: try from above the bound on.
    """
    sizes = [high - low for low, high in pairwise(recipe.cuts(parameters * choices))]
    bound = min(size / share for size, share in zip(sizes, recipe.shares, strict=True) if share)
    for samples in range(int(bound) + 2 * len(sizes), 0, -1):
        if _smallest_draws(parameters, choices, replace(recipe, samples=samples)) is not None:
            return samples
    return 0


def _percent(shares: tuple[float, ...]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)


def draw(seed: int, start: int, stop: int, draws: int, choices: int) -> tuple[Int, Any]:
    """Steps and selection keys of the candidates of a range of weights.

    Parameters
    ----------
    seed : int
    start, stop : int
        Range of weights, n = stop - start.
    draws : int
        Draws per weight, R; at most `choices`.
    choices : int
        Admissible steps, M.

    Returns
    -------
    chosen : int64 array, shape (R, n)
        Indices of admissible steps, distinct along the first axis.
    keys : uint64 array, shape (R, n)
        Random keys, by which a stratum's samples are selected.
    """
    streams = [words(seed, r, start, stop) for r in range(draws)]
    units = np.array([b for b in range(1, choices + 1) if math.gcd(b, choices) == 1])
    offset = below(streams[0][:, 0], choices)
    stride = units[below(streams[0][:, 1], len(units))]
    r = np.arange(draws)[:, None]
    chosen = (offset + r * stride) % choices  # [R, n]
    keys = np.stack([stream[:, 2] for stream in streams])  # [R, n]
    return chosen, keys


def select(variation: npt.NDArray[Any], keys: npt.NDArray[np.uint64], recipe: Recipe) -> list[Int]:
    """Choose the samples of each stratum.

    Parameters
    ----------
    variation : float array, shape (C,)
        Of every candidate.
    keys : uint64 array, shape (C,)
        Their random keys.
    recipe : Recipe

    Returns
    -------
    list of int64 arrays
        Candidates chosen from each stratum, rising. The strata are exact also where dead weights
        tie at zero: candidates of equal variation are ordered by the low half of the key. The high
        half decides which candidates are chosen; if it ordered ties too, those in the upper of two
        strata would be the ones not chosen.

    Examples
    --------
    >>> recipe = Recipe(samples=4, edges=(0, 0.5, 1), shares=(0.75, 0.25))
    >>> keys = np.arange(8, dtype=np.uint64)
    >>> [chosen.tolist() for chosen in select(np.float32([1, 9, 2, 8, 3, 7, 4, 6]), keys, recipe)]
    [[1, 3, 5], [0]]
    """
    tie_order = keys << np.uint64(32) | keys >> np.uint64(32)
    order = np.lexsort((tie_order, variation))[::-1]  # largest variation first
    cuts = recipe.cuts(len(order))
    strata = []
    for count, low, high in zip(recipe.counts(), cuts, cuts[1:], strict=False):
        members = np.sort(order[low:high])
        smallest = np.argsort(keys[members], kind="stable")[:count]
        strata.append(np.sort(members[smallest]))
    return strata
