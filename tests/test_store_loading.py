"""A dataset in torch's loaders and in scikit-learn: the same rows, and only those are read."""

from __future__ import annotations

import json
import pickle
import shutil
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import SGDRegressor
from sklearn.model_selection import GroupKFold
from store_reference import refuses, same_bits, wandering
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    random_split,
)

from weightcast.store import Dataset, FormatError, build_dataset
from weightcast.store.split import held_out_weights

N = 300


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("loading")
    wandering(60, 41).write(folder / "run.zarr")
    return build_dataset(folder / "run.zarr", folder / "data.zarr", N, validation=0.2)


def pairs(x: Any, y: Any) -> list[tuple[bytes, bytes]]:
    """Rows, in an order that does not depend on how they came."""
    x, y = np.asarray(x), np.asarray(y)
    return sorted((a.tobytes(), b.tobytes()) for a, b in zip(x, y, strict=True))


# ---- rows


INDICES = (
    st.slices(N)
    | st.lists(st.integers(-N, N - 1), min_size=1).map(np.array)
    | st.integers(-N, N - 1)
)


@given(index=INDICES)
def test_rows_are_copies_of_both_arrays(dataset: Dataset, index: Any) -> None:
    x, y = dataset[index]
    assert same_bits(np.asarray(x), np.asarray(dataset.X[index]))
    assert same_bits(np.asarray(y), np.asarray(dataset.y[index]))
    assert type(x) is np.ndarray
    x += 1  # refused if it were the file's
    if isinstance(index, int):
        assert x.shape == (4,)
        assert isinstance(y, np.float32)
    else:
        y += 1


def test_rows_by_a_mask_or_none_at_all(dataset: Dataset) -> None:
    x, y = dataset[dataset.validation]
    assert same_bits(x, np.asarray(dataset.X[dataset.validation_rows]))
    assert len(x) == len(y) == dataset.validation.sum() > 0
    assert dataset[[]][0].shape == (0, 4)
    assert dataset.__getitems__([]) == []


def test_rows_that_are_not_there(dataset: Dataset) -> None:
    with pytest.raises(IndexError):
        dataset[N]
    with pytest.raises(IndexError):
        dataset[[0, N]]
    assert len(list(iter(dataset))) == N  # Python stops at that error


def test_many_rows_are_what_one_after_the_other_gives(dataset: Dataset) -> None:
    rows = [5, 5, 299, 0]
    for (x, y), row in zip(dataset.__getitems__(rows), rows, strict=True):
        assert same_bits(x, dataset[row][0])
        assert y == dataset[row][1]


def test_a_pickled_dataset_is_its_path(dataset: Dataset) -> None:
    data = pickle.dumps(dataset)
    assert len(data) < 1000
    assert same_bits(np.asarray(pickle.loads(data).X), np.asarray(dataset.X))


# ---- splits


def change(folder: Path, array: str, values: dict[int, int]) -> Dataset:
    """Put other numbers into an array of a dataset."""
    stored = np.memmap(folder / array / "c/0", np.int64, mode="r+")
    for row, value in values.items():
        stored[row] = value
    stored.flush()
    return Dataset(folder)


@pytest.fixture
def copy(dataset: Dataset, tmp_path: Path) -> Path:
    """A copy of the dataset, to be damaged."""
    shutil.copytree(dataset.path, tmp_path / "copy.zarr")
    return tmp_path / "copy.zarr"


@given(
    weights=st.lists(st.integers(0, 200), min_size=1, max_size=30),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**64 - 1),
    block=st.integers(1, 60),
)
def test_a_split_goes_by_each_weight_s_own_key(
    dataset: Dataset, weights: list[int], share: float, seed: int, block: int
) -> None:
    """Whatever the order of the rows, and however the weights are cut into blocks."""
    parameter = np.resize(np.array(weights), N)
    with (
        mock.patch.object(dataset, "parameter", parameter),
        mock.patch("weightcast.store.dataset._SPLIT_BLOCK", block),
    ):
        rest, held = dataset.split(share, seed)
    expected = held_out_weights(seed, share, 0, 201)[parameter]
    assert held.tolist() == np.flatnonzero(expected).tolist()
    assert rest.tolist() == np.flatnonzero(~expected).tolist()


def test_a_split_of_weights_far_apart_ends(dataset: Dataset, copy: Path) -> None:
    far = {3: 2**62, 200: 2**63 - 1}
    sides = [set(part.tolist()) - set(far) for part in change(copy, "parameter", far).split(0.3)]
    assert sides == [set(part.tolist()) - set(far) for part in dataset.split(0.3)]


def test_a_split_of_a_negative_weight_says_so(copy: Path) -> None:
    with refuses(FormatError, copy, "-7"):
        change(copy, "parameter", {9: -7}).split(0.3)


@pytest.mark.parametrize("number", [True, 2.0, "2", None, 0, 4])
def test_a_format_is_a_whole_number(copy: Path, number: Any) -> None:
    document = json.loads((copy / "zarr.json").read_text())
    document["attributes"]["weightcast"]["dataset_format"] = number
    (copy / "zarr.json").write_text(json.dumps(document))
    with refuses(FormatError, copy, f"dataset format {number!r}"):
        Dataset(copy)


# ---- torch; warnings are errors, torch's of arrays that cannot be written to among them


def batched(dataset: Any, workers: int) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=64, shuffle=True, num_workers=workers)


def gathered(dataset: Any, workers: int) -> DataLoader[Any]:
    sampler = BatchSampler(RandomSampler(dataset), 64, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [batched, gathered])
def test_an_epoch_gives_every_row_once_in_another_order(
    dataset: Dataset, make: Any, workers: int
) -> None:
    batches = list(make(dataset, workers))
    assert [len(y) for _, y in batches] == [64, 64, 64, 64, 44]
    for x, y in batches:
        assert x.dtype == y.dtype == torch.float32
        assert x.shape == (len(y), 4)
        x += 0  # in place
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert pairs(x, y) == pairs(dataset.X, dataset.y)
    assert not torch.equal(x, torch.tensor(np.array(dataset.X)))


def test_a_worker_that_shares_nothing_opens_it_by_its_path(dataset: Dataset) -> None:
    loader = gathered(dataset, 1)
    loader.multiprocessing_context = "spawn"
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert pairs(x, y) == pairs(dataset.X, dataset.y)


def test_random_split_and_subset(dataset: Dataset) -> None:
    train, test = random_split(dataset, [200, 100], torch.Generator().manual_seed(0))
    found = [torch.cat(p) for half in (train, test) for p in zip(*batched(half, 0), strict=True)]
    assert [len(part) for part in found] == [200, 200, 100, 100]
    x, y = torch.cat(found[::2]), torch.cat(found[1::2])
    assert pairs(x, y) == pairs(dataset.X, dataset.y)
    held = Subset(dataset, dataset.validation_rows)
    (x, y), *_ = DataLoader(held, batch_size=N)
    assert same_bits(x.numpy(), dataset[dataset.validation_rows][0])


def test_a_loader_of_the_training_rows_meets_no_held_out_weight(dataset: Dataset) -> None:
    sampler = SubsetRandomSampler(dataset.training_rows)
    loader = DataLoader(dataset, sampler=BatchSampler(sampler, 50, False), batch_size=None)
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert pairs(x, y) == pairs(*dataset[~dataset.validation])
    sides = (dataset.training_rows, dataset.validation_rows)
    rest, held = (set(dataset.parameter[rows].tolist()) for rows in sides)
    assert rest
    assert held
    assert rest.isdisjoint(held)


@pytest.mark.parametrize("read", [Dataset.__getitem__, Dataset.__getitems__])
def test_a_batch_takes_the_memory_of_its_rows_only(tmp_path: Path, read: Any) -> None:
    history = wandering(5000, 41).write(tmp_path / "run.zarr", block=64)
    recipe = {"context": (1.0, 0.0), "edges": (0.0, 1.0), "shares": (1.0,)}
    dataset = build_dataset(history, tmp_path / "data.zarr", 100_000, **recipe)
    rows = np.random.default_rng(0).permutation(len(dataset))[:100].tolist()
    tracemalloc.start()
    try:
        assert len(read(dataset, rows)) in (2, 100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000 < dataset.y.nbytes


# ---- scikit-learn


def test_group_k_fold_by_weight(dataset: Dataset) -> None:
    folds = list(GroupKFold(5).split(dataset.X, dataset.y, groups=dataset.parameter))
    assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(N))
    for train, test in folds:
        assert not set(dataset.parameter[train]) & set(dataset.parameter[test])


def test_partial_fit_over_batches(tmp_path: Path) -> None:
    """Weights that walk straight on: w(2t) = 2 w(t) - w(0) is there to be learned."""
    recorded = wandering(200, 41)
    straight = np.float32(np.arange(41)[:, None] * recorded.weights[-1] / 100 + recorded.weights[0])
    recorded.weights[:] = straight
    dataset = build_dataset(recorded.write(tmp_path / "run.zarr"), tmp_path / "data.zarr", 2000)
    model = SGDRegressor(random_state=0)
    order = np.random.default_rng(0)
    for _ in range(20):
        for rows in np.array_split(order.permutation(len(dataset)), 20):
            model.partial_fit(*dataset[rows])
    assert model.score(dataset.X, dataset.y) > 0.99
