"""Order statistics by counting digits, against np.sort and sorted()."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weightcast.store.radix import Bracket, from_ordered_bits, ordered_bits

FLOATS = st.sampled_from([np.float32, np.float64])


@st.composite
def numbers(draw: st.DrawFn) -> np.ndarray:
    """Floats without NaN, of a few values often: ties, infinities, both zeros, denormals."""
    dtype = draw(FLOATS)
    width = 8 * np.dtype(dtype).itemsize
    tiny = np.finfo(dtype).smallest_subnormal
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, float(tiny), -float(tiny)])
    any_number = st.floats(allow_nan=False, width=width)
    return draw(hnp.arrays(dtype, st.integers(1, 40), elements=st.one_of(few, any_number)))


@given(numbers())
def test_bits_have_the_order_of_the_numbers(values: np.ndarray) -> None:
    bits = ordered_bits(values)
    assert bits.dtype == f"u{values.dtype.itemsize}"
    below = values[:, None] < values
    assert np.array_equal(bits[:, None] < bits, below)
    assert np.array_equal(bits[:, None] == bits, values[:, None] == values)


@given(numbers())
def test_bits_become_the_numbers_again(values: np.ndarray) -> None:
    again = from_ordered_bits(ordered_bits(values))
    assert again.dtype == values.dtype
    assert np.array_equal(again, values)
    assert not np.signbit(again[again == 0]).any()  # -0.0 counts as 0.0


def test_bits_of_a_column_are_those_of_its_values() -> None:
    table = np.float32([[3, -1], [-2, 5]])
    assert np.array_equal(ordered_bits(table[:, 0]), ordered_bits(np.float32([3, -2])))
    assert ordered_bits(table).shape == (2, 2)


def search(bracket: Bracket, parts: Sequence[Sequence[np.ndarray]]) -> Bracket:
    """Narrow a bracket until its key is known; the parts are counted each for itself."""
    passes = 0
    while not bracket.exact:
        counts: Any = sum(bracket.counts(part) for part in parts)
        assert counts.sum() == bracket.size == sum(bracket.holds(p).sum() for p in parts)
        bracket = bracket.narrowed(counts)
        passes += 1
    assert passes == sum(-(-bits // 12) for bits in bracket.bits)
    return bracket


@given(numbers(), st.data())
def test_a_rank_is_found_among_any_parts(values: np.ndarray, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, len(values) - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    parts = [[part] for part in np.split(ordered_bits(values), cuts)]
    bits = 8 * values.dtype.itemsize
    found = search(Bracket((bits,), rank, len(values)), parts)
    kind = parts[0][0].dtype.type
    value = from_ordered_bits(np.array([kind(found.known_words[0])]))[0]
    assert value == np.sort(values)[rank]
    assert found.size == (values == value).sum()
    assert found.rank == rank - (values < value).sum()


@given(st.data())
def test_a_key_of_several_words_is_ordered_by_the_first(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    widths = data.draw(st.lists(st.sampled_from([8, 16, 32, 64]), min_size=1, max_size=3))
    words = []
    for width in widths:
        few = st.one_of(st.integers(0, 2), st.integers(0, 2**width - 1), st.just(2**width - 1))
        values = data.draw(st.lists(few, min_size=count, max_size=count))
        words.append(np.array(values, dtype=f"u{width // 8}"))
    rank = data.draw(st.integers(0, count - 1))
    cut = data.draw(st.integers(0, count))
    parts = [[w[:cut] for w in words], [w[cut:] for w in words]]
    found = search(Bracket(tuple(widths), rank, count), parts)
    keys = sorted(zip(*(w.tolist() for w in words), strict=True))
    assert found.known_words == keys[rank]
    assert found.size == keys.count(keys[rank])


def test_words_not_known_yet_may_be_missing() -> None:
    first, second = np.array([5, 5, 9], np.uint8), np.array([2, 1, 0], np.uint8)
    bracket = Bracket((8, 8), rank=1, size=3)
    bracket = bracket.narrowed(bracket.counts([first]))
    assert bracket.known_words == (5,)
    assert bracket.holds([first]).tolist() == [True, True, False]
    bracket = bracket.narrowed(bracket.counts([first, second]))
    assert bracket.known_words == (5, 2)
    assert bracket.holds([first, second]).tolist() == [True, False, False]


@pytest.mark.parametrize(("rank", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_a_rank_beyond_the_keys_is_refused(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"0 to {size - 1}: got {rank}"):
        Bracket((32,), rank, size)
