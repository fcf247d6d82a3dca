"""Paths that only large histories take: made common by tiny limits; and what fails leaves nothing.

The limits are module constants that are looked up when they are needed.
"""

from __future__ import annotations

import gc
import re
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from dataset_cases import assert_reference, build, build_counting, finite_histories, models, recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import (
    Recorded,
    files,
    left_in,
    reference_candidates,
    reference_dataset,
    refuses,
    vector,
    wandering,
)

from weightcast.store import (
    Dataset,
    History,
    NonFiniteError,
    ParameterTable,
    Recipe,
    build_dataset,
    keyed,
)

STORE = "weightcast.store."


def few_keys(seed: int, stream: int, start: int, stop: int) -> np.ndarray:
    """Random words whose third, the key of a candidate, has three values only."""
    found = keyed.words(seed, stream, start, stop)
    found[:, 2] = found[:, 2] % np.uint64(3) * np.uint64(2**62 + 1)
    return found


RARE: dict[str, dict[str, Any]] = {
    "as it is": {},
    "refine to the last bit": {"searching.COLLECTED": 1},
    "three bits a pass": {"searching.COLLECTED": 1, "radix.DIGIT_BITS": 3},
    "collect a few": {"searching.COLLECTED": 12, "radix.DIGIT_BITS": 5},
    "small blocks": {"searching.COLLECTED": 1, "choosing.BLOCK_CANDIDATES": 1},
    "middling blocks": {"choosing.BLOCK_CANDIDATES": 20},
    "one weight a task": {"planning.TASK_POINTS": 1},
    "parts of chunks": {"planning.TASK_POINTS": 20},
    "many chunks a task": {"planning.FEWEST_TASKS": 1},
    "some chunks a task": {"planning.FEWEST_TASKS": 2},
    "one candidate kept of a million": {"sources._least_key": lambda _: (1 << 64) // 10**6},
    "a few tasks at once": {"passes.AT_ONCE": 2},
    "half of the candidates kept": {"sources._least_key": lambda _: 1 << 63},
    "all kept": {"sources._least_key": lambda _: 1 << 64},
    "one history open": {"scanning.MOST_OPEN": 1},
    "keys that tie": {"sampling.words": few_keys, "searching.COLLECTED": 1},
    "keys that tie, collected": {"sampling.words": few_keys},
}


@contextmanager
def patched(*names: str) -> Iterator[None]:
    """Tiny limits inside this block; the reference draws the same keys."""
    with ExitStack() as stack:
        for name in names:
            for target, value in RARE[name].items():
                stack.enter_context(mock.patch(STORE + target, value))
                if target == "sampling.words":
                    stack.enter_context(mock.patch("store_reference.words", value))
        yield


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_rare_paths_give_what_the_reference_gives(data: st.DataObject) -> None:
    table = data.draw(models())
    histories = data.draw(st.lists(finite_histories(table), min_size=1, max_size=2))
    recipe = data.draw(recipes(histories))
    names = data.draw(st.lists(st.sampled_from(sorted(RARE)), min_size=1, max_size=4))
    block, width = data.draw(st.integers(3, 9)), data.draw(st.integers(2, 6))
    with patched(*names), tempfile.TemporaryDirectory() as folder:
        if reference_dataset(histories, recipe):
            paths = [
                h.write(Path(folder) / f"{i}.zarr", block=block, width=width)
                for i, h in enumerate(histories)
            ]
            dataset, _ = build_counting(paths, Path(folder) / "data.zarr", recipe)
            assert_reference(dataset, histories, recipe)


# ---- one pair of histories, its ties and its bytes


PAIR = Recipe(120, draws=9, validation=0.3, run_shares=(1.0, 2.0), exclude=("skip",))


@pytest.fixture(scope="module")
def pair() -> list[Recorded]:
    """Half of the weights are dead, a parameter is left out, and one history is twice as long."""
    table = ParameterTable.of(
        [
            ("a", (9,), "float32", "weight"),
            ("skip", (6,), "float32", "weight"),
            ("b", (2, 4), "float32", "weight"),
        ]
    )
    dead = np.arange(23) % 2 == 0
    return [
        Recorded(table, walk.steps, np.where(dead, walk.weights[0], walk.weights))
        for walk in (wandering(23, 30, 1), wandering(23, 60, 2))
    ]


@pytest.fixture(scope="module")
def usual(pair: list[Recorded], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("pair")
    paths = [h.write(folder / f"{i}.zarr") for i, h in enumerate(pair)]
    dataset = build(paths, folder / "data.zarr", PAIR)
    drawn = assert_reference(dataset, pair, PAIR)
    assert max(drawn[0].ties) > 10  # the cut lies among the dead weights
    return files(folder / "data.zarr")


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("name", [name for name in RARE if "tie" not in name])
def test_rare_paths_do_not_change_a_byte(
    tmp_path: Path, pair: list[Recorded], usual: dict[str, bytes], name: str, scheduler: str
) -> None:
    paths = [h.write(tmp_path / f"{i}.zarr", block=8, width=4) for i, h in enumerate(pair)]
    with patched(name):
        build(paths, tmp_path / "data.zarr", PAIR, scheduler=scheduler)
    assert files(tmp_path / "data.zarr") == usual
    assert left_in(tmp_path) == ["0.zarr", "1.zarr", "data.zarr"]


@pytest.mark.parametrize("name", [name for name in RARE if "tie" in name])
def test_keys_that_tie_are_ordered_by_number(
    tmp_path: Path, pair: list[Recorded], name: str
) -> None:
    """Also across tasks, where a cut lies among candidates that have all else in common."""
    paths = [h.write(tmp_path / f"{i}.zarr", block=8, width=4) for i, h in enumerate(pair)]
    with patched(name):
        assert_reference(build(paths, tmp_path / "data.zarr", PAIR), pair, PAIR)


@pytest.mark.parametrize(
    ("edges", "shares", "sizes"),
    [
        ((0.0, 0.01, 0.5, 1.0), (0.0, 0.5, 0.5), (0, 10, 10)),
        ((0.0, 0.5, 0.99, 1.0), (0.5, 0.5, 0.0), (10, 10, 0)),
        ((0.0, 0.01, 0.02, 0.98, 0.99, 1.0), (0.0, 0.0, 1.0, 0.0, 0.0), (0, 0, 20, 0, 0)),
    ],
)
def test_strata_that_have_no_candidate(
    tmp_path: Path, edges: tuple[float, ...], shares: tuple[float, ...], sizes: tuple[int, ...]
) -> None:
    """The first or the last, by rounding: the others have all candidates."""
    recorded = wandering(10, 30)
    history = recorded.write(tmp_path / "run.zarr", width=4)
    recipe = Recipe(12, edges=edges, shares=shares, draws=2)
    dataset = build(history, tmp_path / "data.zarr", recipe)
    assert dataset.origins[0].candidates == sizes
    assert_reference(dataset, recorded, recipe)


def passes(folder: Path, pair: list[Recorded], name: str) -> tuple[dict[str, int], int]:
    """How often each pass ran, and how many tasks there were."""
    started: dict[str, int] = {}
    tasks = []

    def progress(what: str, done: int, total: int) -> None:
        if not done:
            started[what] = started.get(what, 0) + 1
            tasks.append(total)

    paths = [h.write(folder / f"{i}.zarr", block=8, width=4) for i, h in enumerate(pair)]
    with patched(name):
        build(paths, folder / "data.zarr", PAIR, progress=progress)
    return started, tasks[0]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("refine to the last bit", "cut strata"),
        ("three bits a pass", "cut strata"),
        ("collect a few", "cut strata"),
        ("one candidate kept of a million", "decode"),
        ("three bits a pass", "choose"),
    ],
)
def test_tiny_limits_add_passes(tmp_path: Path, pair: list[Recorded], name: str, what: str) -> None:
    """The patches reach what they should: else the tests above would show nothing."""
    plain, _ = passes(tmp_path / "plain", pair, "as it is")
    more, _ = passes(tmp_path / "more", pair, name)
    assert more[what] > plain[what]
    assert more["write samples"] == plain["write samples"] == 1


def test_only_the_history_that_kept_too_few_is_read_again(
    tmp_path: Path, pair: list[Recorded]
) -> None:
    seen: list[int] = []
    real = __import__(STORE + "sources", fromlist=["x"])._least_key

    def few_of_the_second(given: Any) -> int:
        seen.append(sum(given.counts))
        return 1 if len(seen) == 2 else real(given)

    calls: list[tuple[str, int, int]] = []
    paths = [h.write(tmp_path / f"{i}.zarr", width=4) for i, h in enumerate(pair)]
    with mock.patch(STORE + "sources._least_key", few_of_the_second):
        dataset = build(
            paths, tmp_path / "data.zarr", PAIR, progress=lambda *call: calls.append(call)
        )
    assert seen == [40, 80]
    tasks = [total for what, done, total in calls if what == "decode" and not done]
    assert len(tasks) == 2
    assert tasks[0] == 2 * tasks[1]  # both histories have as many chunks
    assert_reference(dataset, pair, PAIR)


@pytest.mark.parametrize(("most", "opened"), [(1, 12), (4, 12), (6, 6)])
def test_few_histories_are_open_at_once(tmp_path: Path, most: int, opened: int) -> None:
    """Each is opened for its tasks of a pass, or once for all if so many may be open."""
    paths = [wandering(5, 20, i).write(tmp_path / f"{i}.zarr", width=2) for i in range(6)]
    histories = [History(path) for path in paths]
    seen: list[weakref.ref[History]] = []

    def counted(*args: Any, **kwargs: Any) -> History:
        history = History(*args, **kwargs)
        seen.append(weakref.ref(history))
        return history

    limit = mock.patch(STORE + "scanning.MOST_OPEN", most)
    with limit, mock.patch(STORE + "scanning.History", counted):
        build(histories, tmp_path / "data.zarr", Recipe(60))
        gc.collect()
    assert len(seen) <= opened
    assert sum(ref() is not None for ref in seen) <= most


# ---- weights that are not finite


OFFENDER = re.compile(r"w\[(\d+)\] is NaN or infinite in the sample at t = (\d+) ")


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_weight_that_is_not_finite_matters_only_where_it_is_looked_at(
    data: st.DataObject,
) -> None:
    """w(t) and w(0) of every candidate; the rest of the context, and the target, of samples."""
    walk = wandering(6, 30, data.draw(st.integers(0, 9)))
    row, weight = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 5))
    walk.weights[row, weight] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    recorded = Recorded(vector(6), walk.steps, walk.weights)
    recipe = Recipe(
        data.draw(st.integers(4, 16)),
        draws=data.draw(st.integers(3, 5)),
        seed=data.draw(st.integers(0, 99)),
    )
    names = data.draw(
        st.lists(
            st.sampled_from(["one weight a task", "all kept", "many chunks a task"]), unique=True
        )
    )
    candidates = reference_candidates(recorded, recipe)
    bad = {(c.weight, c.t) for c in candidates if not np.isfinite(c.x[0])}
    bad |= {(c.weight, 0) for c in candidates if not np.isfinite(c.first)}
    if not bad:
        (drawn,) = reference_dataset([recorded], recipe) or ()
        samples = [(s, [*s.x, s.y]) for s in drawn.samples]
        bad = {(s.parameter, s.step) for s, values in samples if not np.isfinite(values).all()}
    with patched(*names), tempfile.TemporaryDirectory() as folder:
        history = recorded.write(Path(folder) / "run.zarr", block=8, width=4)
        path = Path(folder) / "data.zarr"
        if not bad:
            assert_reference(build(history, path, recipe), recorded, recipe)
            return
        with pytest.raises(NonFiniteError) as caught:
            build(history, path, recipe)
        named = OFFENDER.search(str(caught.value))
        assert named is not None
        assert (int(named[1]), int(named[2])) in bad
        assert str(history) in str(caught.value)
        assert left_in(Path(folder)) == ["run.zarr"]


def test_the_history_of_the_weight_is_named(tmp_path: Path, pair: list[Recorded]) -> None:
    poisoned = Recorded(pair[1].table, pair[1].steps, pair[1].weights.copy())
    poisoned.weights[7:, 20] = np.nan
    paths = [h.write(tmp_path / f"{i}.zarr") for i, h in enumerate([pair[0], poisoned])]
    with refuses(NonFiniteError, "b[1,1]", paths[1], "--t-max"):
        build(paths, tmp_path / "data.zarr", PAIR)
    assert left_in(tmp_path) == ["0.zarr", "1.zarr"]


# ---- what fails leaves nothing


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("error", [StoppedError, KeyboardInterrupt])
def test_a_build_that_is_stopped_leaves_nothing(
    tmp_path: Path, pair: list[Recorded], scheduler: str, error: type[BaseException]
) -> None:
    """At any moment: what stood there before still does, and no scratch files lie about."""
    paths = [h.write(tmp_path / f"{i}.zarr", block=8) for i, h in enumerate(pair)]
    target = tmp_path / "out" / "data.zarr"
    build_dataset(paths[0], target, 10)
    before = files(tmp_path)
    left = 0

    def progress(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise error

    moments = 0
    while True:
        left = moments
        try:
            build(paths, target, PAIR, scheduler=scheduler, overwrite=True, progress=progress)
        except error:
            moments += 1
            assert files(tmp_path) == before
            assert left_in(target.parent) == ["data.zarr"]
        else:
            break
    assert moments > 12  # passes of two tasks each: start, one, two
    assert len(Dataset(target)) == 120
    assert left_in(target.parent) == ["data.zarr"]


def test_nothing_but_the_dataset_is_left(tmp_path: Path, pair: list[Recorded]) -> None:
    paths = [h.write(tmp_path / f"{i}.zarr", width=4) for i, h in enumerate(pair)]
    build(paths, tmp_path / "data.zarr", PAIR, scheduler="threads")
    arrays = ["X", "horizon", "parameter", "run", "step", "stratum", "target", "validation"]
    arrays += ["variation", "y"]
    assert left_in(tmp_path / "data.zarr") == [*arrays, "zarr.json"]
    found = {name.split("/", 1)[1] for name in files(tmp_path / "data.zarr")}
    assert found == {"zarr.json", "c/0", "c/0/0"}
