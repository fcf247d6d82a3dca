"""Candidates and their selection: arithmetic on arrays, no input or output.

A history of P weights with M admissible steps has P x M candidates (weight, t). Draw r of weight i
takes the step ``(a_i + r b_i) mod M``, with a_i and b_i random and b_i prime to M: uniform, and
never the same step twice for one weight. As many draws are made as the strata need.
"""

from __future__ import annotations

import itertools
import math
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
    draws = math.ceil(recipe.samples / parameters)
    while draws <= choices:
        if _enough(parameters * draws, recipe.counts(), recipe):
            return draws
        draws += 1
    raise SamplingError(
        f"{recipe.samples} samples are more than exist: {parameters} weights x {choices} steps t "
        f"in strata of {_percent(recipe.shares)} give at most "
        f"{_most_samples(parameters * choices, recipe)}: ask for no more, or record more steps"
    )


def _enough(candidates: int, counts: list[int], recipe: Recipe) -> bool:
    cuts = recipe.cuts(candidates)
    return all(n <= hi - lo for n, lo, hi in zip(counts, cuts, cuts[1:], strict=False))


def _most_samples(candidates: int, recipe: Recipe) -> int:
    cuts = recipe.cuts(candidates)
    sizes = [hi - lo for lo, hi in itertools.pairwise(cuts)]
    bound = min(size / share for size, share in zip(sizes, recipe.shares, strict=True) if share)
    low, high = 0, int(bound) + len(sizes)  # rounding moves a count by less than one a stratum
    while low < high:
        middle = (low + high + 1) // 2
        counts = Recipe(middle, edges=recipe.edges, shares=recipe.shares).counts()
        fits = all(n <= size for n, size in zip(counts, sizes, strict=True))
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


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
        Candidates chosen from each stratum, rising. Candidates of equal variation are ordered by
        key, then by index, so that the strata are exact also when dead weights tie at zero.

    Examples
    --------
    >>> recipe = Recipe(samples=4, edges=(0, 0.5, 1), shares=(0.75, 0.25))
    >>> keys = np.arange(8, dtype=np.uint64)
    >>> [chosen.tolist() for chosen in select(np.float32([1, 9, 2, 8, 3, 7, 4, 6]), keys, recipe)]
    [[1, 3, 5], [0]]
    """
    order = np.lexsort((keys, variation))[::-1]  # largest variation first
    cuts = recipe.cuts(len(order))
    strata = []
    for count, low, high in zip(recipe.counts(), cuts, cuts[1:], strict=False):
        members = np.sort(order[low:high])
        smallest = np.argsort(keys[members], kind="stable")[:count]
        strata.append(np.sort(members[smallest]))
    return strata
