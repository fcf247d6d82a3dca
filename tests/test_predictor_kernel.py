"""The fast forward pass against one weight at a time, in plain Python."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightcast.predictor.kernel import BLOCK, PIECE, two_layers

SIZES = (1, 2, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7)


def reference(hidden, bias, output, shift, context):
    """One weight at a time, one unit at a time; and the sum of all magnitudes, for the bound."""
    results, magnitudes = [], []
    for weight in context.T.tolist():
        result, magnitude = shift, abs(shift)
        for row, b, o in zip(hidden.tolist(), bias.tolist(), output.tolist(), strict=True):
            terms = [h * w for h, w in zip(row, weight, strict=True)]
            result += o * max(sum(terms) + b, 0.0)
            magnitude += abs(o) * (sum(map(abs, terms)) + abs(b))
        results.append(result)
        magnitudes.append(magnitude)
    return np.array(results), np.array(magnitudes)


def made(seed, units, width, size, dtype):
    """A network, and a context of that many weights, exact in the dtype."""
    random = np.random.default_rng(seed)
    kind = np.float32 if dtype == torch.float32 else np.float64
    shapes = ((units, width), (units,), (units,), (width, size))
    return [random.normal(size=shape).astype(kind) for shape in shapes]


def shown(context, at, size):
    """The columns from `at` on, among others: all are NaN but those."""
    whole = torch.full((len(context), at + size + 5), torch.nan, dtype=context.dtype)
    whole[:, at : at + size] = context
    return whole[:, at : at + size]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    units=st.sampled_from([1, 2, 7, 40, 65]),
    width=st.integers(1, 12),
    size=st.sampled_from(SIZES[:3]) | st.integers(1, 50),
    at=st.integers(0, 3),
    dead=st.booleans(),
    shift=st.sampled_from([0.0, -0.75, 1000.0]),
)
def test_it_is_what_one_weight_at_a_time_gives(
    dtype, bound, seed, units, width, size, at, dead, shift
):
    hidden, bias, output, context = made(seed, units, width, size, dtype)
    if dead:
        output[::2] = 0
    expected, magnitude = reference(hidden, bias, output, shift, context)
    seen = shown(torch.from_numpy(context), at, size)
    found = two_layers(hidden, bias, output, shift, seen)(seen)
    assert found.dtype == dtype
    assert found.shape == (size,)
    assert (np.abs(found.numpy() - expected) <= bound * (units + width) * magnitude).all()


@pytest.mark.parametrize("units", [1, 40, 1000])
def test_any_number_of_weights_in_blocks_of_any_size(units):
    """1000 units: one piece alone is more than the cache should hold."""
    hidden, bias, output, context = made(1, units, 4, 12_000, torch.float64)
    seen = torch.from_numpy(context)
    values = two_layers(hidden, bias, output, 0.25, seen)
    expected = output @ np.maximum(hidden @ context + bias[:, None], 0) + 0.25
    for size in (*SIZES, 11 * PIECE, len(context.T)):
        found = [values(part).clone() for part in seen.split(size, dim=1)[:6]]
        together = torch.cat(found).numpy()
        np.testing.assert_allclose(together, expected[: len(together)], rtol=1e-9, atol=1e-9)


def test_a_result_does_not_depend_on_the_other_weights_or_on_blocks():
    hidden, bias, output, context = made(2, 40, 4, 9000, torch.float32)
    seen = torch.from_numpy(context)
    values = two_layers(hidden, bias, output, 0.0, seen)
    whole = values(seen)
    for low, high in ((0, 1), (5, 6), (PIECE - 1, PIECE + 1), (777, 5999), (1, 9000)):
        assert torch.equal(values(seen[:, low:high]), whole[low:high])
    assert torch.equal(values(seen.clone().T.contiguous().T), whole)


def test_earlier_results_stay_as_they_were():
    hidden, bias, output, context = made(3, 5, 3, 2 * PIECE, torch.float32)
    values = two_layers(hidden, bias, output, 0.0, torch.from_numpy(context))
    first = values(torch.from_numpy(context))
    kept = first.clone()
    values(torch.from_numpy(context * 2))
    assert torch.equal(first, kept)


def test_the_given_context_is_not_written():
    hidden, bias, output, context = made(4, 5, 3, PIECE + 1, torch.float32)
    seen = torch.from_numpy(context.copy())
    two_layers(hidden, bias, output, 0.0, seen)(seen)
    assert np.array_equal(seen.numpy(), context)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_harms_no_other(bad):
    hidden, bias, output, context = made(5, 8, 3, 2 * PIECE, torch.float32)
    seen = torch.from_numpy(context)
    values = two_layers(hidden, bias, output, 0.0, seen)
    good = values(seen)
    seen[1, 17] = bad
    found = values(seen)
    assert not found[17].isfinite()
    assert torch.equal(found[:17], good[:17])
    assert torch.equal(found[18:], good[18:])


def test_a_block_is_whole_pieces():
    """Otherwise every block of a forecast would be padded, and copied for it."""
    assert BLOCK % PIECE == 0


def test_another_device_gives_the_same():
    """There is none here: the meta device runs the same code for shapes and dtypes."""
    hidden, bias, output, context = made(6, 40, 4, 100, torch.float32)
    seen = torch.from_numpy(context).to("meta")
    found = two_layers(hidden, bias, output, 0.0, seen)(seen)
    assert (found.device.type, found.dtype, found.shape) == ("meta", torch.float32, (100,))
