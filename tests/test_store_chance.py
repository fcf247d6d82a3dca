"""What sampling does on average: of fixed seeds, so that chance decides nothing here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_cases import build
from store_reference import Recorded, vector, wandering

from weightcast.store import Dataset, Recipe

CHI_SQUARE_9 = 33.7  # exceeded by 1 in 10,000, of 9 degrees of freedom
PLAIN = {"context": (1.0, 0.0), "tolerance": 0.0}


def chi_square(chosen: Any, everyone: Any, by: Any) -> float:
    """How unevenly `chosen` of `everyone` (masks) lie in ten equal parts of these, in order `by`.

    Drawn without repetition, so that it is a little below what it would be otherwise.
    """
    members = np.flatnonzero(everyone)
    parts = np.array_split(members[np.argsort(by[members], kind="stable")], 10)
    share = chosen[members].mean()
    return float(
        sum((chosen[part].sum() - share * len(part)) ** 2 / (share * len(part)) for part in parts)
        / (1 - share)
    )


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """A history, and the dataset of all of its candidates: two steps of each of 3000 weights."""
    folder = tmp_path_factory.mktemp("even")
    history = wandering(3000, 90).write(folder / "run.zarr", block=90)
    return history, build(history, folder / "all.zarr", Recipe(6000, draws=2, **PLAIN))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_each_stratum_is_sampled_evenly(
    tmp_path: Path, candidates: tuple[Path, Dataset], share: float
) -> None:
    """Over the variation within it, over weights, and over steps."""
    history, everyone = candidates
    some = build(history, tmp_path / "some.zarr", Recipe(int(6000 * share), draws=2, **PLAIN))
    names = list(zip(everyone.parameter.tolist(), everyone.step.tolist(), strict=True))
    place = {name: row for row, name in enumerate(names)}
    assert len(place) == 6000
    rows = [place[n] for n in zip(some.parameter.tolist(), some.step.tolist(), strict=True)]
    assert np.array_equal(some.stratum, everyone.stratum[rows])
    chosen = np.zeros(6000, bool)
    chosen[rows] = True
    for stratum in range(3):
        members = everyone.stratum == stratum
        assert chosen[members].mean() == share
        for by in (everyone.variation, everyone.parameter, everyone.step):
            assert chi_square(chosen, members, by) < CHI_SQUARE_9


def test_a_biased_choice_would_be_noticed(candidates: tuple[Path, Dataset]) -> None:
    _, everyone = candidates
    members = everyone.stratum == 0
    odds = np.random.default_rng(0).random(6000)
    rank = np.argsort(np.argsort(everyone.variation)) / 6000
    assert chi_square(odds < 0.3, members, everyone.variation) < CHI_SQUARE_9
    assert chi_square(odds < 0.1 + 0.3 * rank, members, everyone.variation) > CHI_SQUARE_9


def test_dead_weights_are_drawn_as_often_in_the_upper_as_in_the_lower_stratum(
    tmp_path: Path,
) -> None:
    """They tie at zero, and the cut lies among them."""
    weights = np.zeros((5, 9000), np.float32)
    moving = np.random.default_rng(1).permutation(9000)[:1500]
    weights[1:, moving] = np.linspace(1, 2, 1500, dtype=np.float32)
    history = Recorded(vector(9000), list(range(5)), weights).write(tmp_path / "run.zarr", block=5)
    # the upper stratum: 1500 weights that moved, and as many of the 7500 that did not
    recipe = Recipe(4500, edges=(0.0, 1 / 3, 1.0), shares=(1 / 3, 2 / 3), draws=1, **PLAIN)
    dataset = build(history, tmp_path / "data.zarr", recipe)
    assert dataset.origins[0].candidates == (3000, 6000)
    assert dataset.origins[0].ties == (7500, 0)
    dead = ~np.isin(dataset.parameter, moving)
    upper = dead & (dataset.stratum == 0)
    assert (dataset.stratum == 0).sum() == 1500
    # half of all are chosen: about 750 of the dead in the upper, 3000 in the lower
    assert abs(upper.sum() - 750) < 5 * np.sqrt(3000 / 4 / 4)
    assert (dataset.stratum == 1).sum() == (dead & (dataset.stratum == 1)).sum() == 3000
    # and which of the dead those are, their place does not say
    everyone = np.ones(9000, bool)
    everyone[moving] = False
    for chosen_rows in (upper, dataset.stratum == 1):
        chosen = np.zeros(9000, bool)
        chosen[dataset.parameter[chosen_rows]] = True
        assert chi_square(chosen, everyone, np.arange(9000)) < CHI_SQUARE_9


@pytest.mark.parametrize("t_distribution", ["uniform", "log"])
def test_each_octave_of_steps_counts_as_told(tmp_path: Path, t_distribution: str) -> None:
    history = wandering(400, 2049).write(tmp_path / "run.zarr", block=2049)
    recipe = Recipe(
        1600,
        draws=4,
        edges=(0.0, 1.0),
        shares=(1.0,),
        t_min=32,
        t_max=1023,
        t_distribution=t_distribution,
        **PLAIN,
    )
    dataset = build(history, tmp_path / "data.zarr", recipe)
    octaves = np.bincount(np.log2(dataset.step).astype(int))[5:]  # 32 to 63, ... 512 to 1023
    share = np.full(5, 1 / 5) if t_distribution == "log" else 2.0 ** np.arange(5) / 31
    expected = 1600 * share
    assert np.abs(octaves - expected).max() < 5 * np.sqrt(expected.max())
    assert ((octaves - expected) ** 2 / expected).sum() < 23.5  # 1 in 10,000, 4 degrees


def test_every_pair_of_steps_of_a_weight_is_as_likely(tmp_path: Path) -> None:
    """Distinct steps; of a prime number of them, one says nothing else of the next."""
    history = wandering(6000, 23).write(tmp_path / "run.zarr", block=23)
    recipe = Recipe(12_000, draws=2, edges=(0.0, 1.0), shares=(1.0,), t_max=11, **PLAIN)
    dataset = build(history, tmp_path / "data.zarr", recipe)
    first, second = dataset.step[0::2], dataset.step[1::2]
    assert np.array_equal(dataset.parameter[0::2], dataset.parameter[1::2])
    pairs = np.bincount((first - 1) * 11 + second - 1, minlength=121).reshape(11, 11)
    assert not np.diag(pairs).any()
    assert np.abs(pairs[~np.eye(11, dtype=bool)] - 6000 / 110).max() < 5 * np.sqrt(6000 / 110)
