"""Jumps in place: beside the pure jump, and beside one weight at a time in Python's floats."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from weightcast.apply import Jumper, Placement, jump, packing, writing
from weightcast.apply.flattening import layouts_of
from weightcast.apply.packing import packs
from weightcast.apply.summing import ModelSums
from weightcast.apply.watching import Watch, root_mean_square
from weightcast.predictor import Forecaster, Line, LinearFit
from weightcast.predictor.rows import measure
from weightcast.store import NonFiniteError, RunningSums, Window
from weightcast.store.columns import Past, Statistic
from weightcast.store.context import Context
from weightcast.store.windows import Arriving

T, TARGET = 8, 12


class Mixing(Forecaster):
    """A fixed, crooked function of all columns; it fails in a block of one's choice."""

    def __init__(self, context: Any, horizon: Any = "+4") -> None:
        self.context, self.horizon = context, horizon

    def ready(self) -> Mixing:
        self.fit(np.zeros((1, len(Context.of(self.context).columns))), np.zeros(1))
        self.failure: tuple[int, BaseException] | None = None
        self.blocks = 0
        return self

    def _learn(self, X: Any, y: Any, **options: Any) -> None:
        pass

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        def values(seen: torch.Tensor) -> torch.Tensor:
            self.blocks += 1
            if self.failure is not None and self.blocks == self.failure[0]:
                raise self.failure[1]
            return sum((s / (k + 1)).sin() for k, s in enumerate(seen))

        return values


def mixed(row: list[float]) -> float:
    return sum(math.sin(v / (k + 1)) for k, v in enumerate(row))


FORECASTERS: dict[str, Callable[[], Forecaster]] = {
    "snapshots": lambda: Mixing("1,0.5,0"),
    "window": lambda: Mixing("mean:4/2,slope:4/2,spread:4/2"),
    "windows and snapshots": lambda: Mixing("1,0.5,t-1,slope:4/1,spread:6/3,ahead"),
    "all facts": lambda: Mixing("t-2,mean:4/4,scale,size,fan-in,dims,step,ratio"),
    "nothing that could be spared": lambda: Mixing("1"),
    "line": lambda: Line(window=4, stride=2, horizon="+4"),
    "linear fit": lambda: LinearFit((1.0, 0.5, 0.0), 1.5),
}


def slow_forecast(
    forecaster: Forecaster, tensors: list[torch.Tensor], place: tuple[int, ...]
) -> float:
    """One weight's, of the tensors at steps 0 to T."""
    past = [float(v[place]) for v in tensors]
    if isinstance(forecaster, Line):
        steps = range(T - 4, T + 1, 2)
        return float(np.polyval(np.polyfit(steps, [past[s] for s in steps], 1), TARGET))
    if isinstance(forecaster, LinearFit):
        steps = [8, 4, 0]
        return float(np.polyval(np.polyfit(steps, [past[s] for s in steps], 1), TARGET))
    first = [float(v) for v in tensors[0].flatten()]
    shape = tuple(tensors[0].shape)
    facts = {
        "scale": math.sqrt(sum(v * v for v in first) / max(len(first), 1)),
        "size": math.prod(shape),
        "fan-in": math.prod(shape[1:]) if len(shape) > 1 else 1,
        "dims": len(shape),
        "step": T,
        "ahead": TARGET - T,
        "ratio": TARGET / T,
    }
    return mixed([_slow_entry(c, past, facts) for c in forecaster.sees.columns])


def _slow_entry(column: Any, past: list[float], facts: dict[str, float]) -> float:
    if isinstance(column, Past):
        return past[math.floor(column.fraction * T + 0.5) - column.back]
    if not isinstance(column, Statistic):
        return float(facts[column.name])
    window = column.window
    steps = range(T - window.steps, T + 1, window.stride)
    values = [past[s] for s in steps]
    slope, level = np.polyfit(steps, values, 1)
    if column.kind == "mean":
        return sum(values) / len(values)
    if column.kind == "slope":
        return float(slope * window.steps)
    left = [v - slope * s - level for s, v in zip(steps, values, strict=True)]
    return math.sqrt(sum(x * x for x in left) / len(left))


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dense": lambda v: v,
    "turned": lambda v: v.mT.contiguous().mT if v.ndim > 1 else v,
    "channels_last": lambda v: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v,
    "of longer rows": lambda v: nn.functional.pad(v, (0, 1))[..., :-1] if v.ndim else v,
    "every other number": lambda v: torch.stack([v, v], dim=-1)[..., 0],
    "a stride of 0": lambda v: (
        v.clone().as_strided((1, *v.shape[1:]), (0, *v.stride()[1:])) if v.ndim and len(v) else v
    ),
}
SHAPES = st.sampled_from([(), (0,), (1,), (3,), (7,), (2, 3), (2, 0, 3), (2, 3, 2, 2), (19,)])
TENSORS = st.lists(
    st.tuples(
        SHAPES,
        st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]),
        st.sampled_from(sorted(LAYOUTS)),
    ),
    min_size=1,
    max_size=6,
)


class Past8:
    """A model that was watched up to a jump point."""

    def __init__(self, kinds: Any, forecaster: Forecaster, placement: Placement | None = None):
        generator = torch.Generator().manual_seed(len(kinds))
        self.forecaster = forecaster.ready()
        self.parameters = [
            LAYOUTS[layout](torch.randn(shape, generator=generator).to(dtype))
            for shape, dtype, layout in kinds
        ]
        self.watch = Watch(self.forecaster.sees, [T], self.parameters, placement or Placement())
        self.scales = [root_mean_square(p) for p in self.parameters]
        self.history: list[list[torch.Tensor]] = []
        for step in range(T + 1):
            self.history.append([p.clone() for p in self.parameters])
            if step < T:
                self.watch.see(step)
                for p in self.parameters:
                    p += 0.1 * torch.randn(p.shape, generator=generator).to(p)

    def backups(self, spared: bool) -> list[torch.Tensor]:
        spare = self.watch.spare(T) if spared else None
        flat = zip(self.watch.layouts, self.parameters, strict=True)
        return spare or [torch.empty_like(layout.flat(p)) for layout, p in flat]

    def jump(self, backups: list[torch.Tensor]) -> list[tuple[float, float]]:
        rows = self.watch.rows(T, TARGET)
        return writing.write_forecasts(
            self.parameters, self.watch.layouts, rows, self.forecaster, backups
        )

    def backed_up(self, backups: list[torch.Tensor]) -> bool:
        """Whether the backups are the weights before, to the bit."""
        triples = zip(self.watch.layouts, backups, self.history[T], strict=True)
        return all(torch.equal(la.flat(v), b.to(v)) for la, b, v in triples)

    def unchanged(self) -> bool:
        return all(map(torch.equal, self.parameters, self.history[T]))


@pytest.fixture(scope="module", params=[2, 5, 1 << 18], ids="blocks of {}".format)
def block(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "IN_PLACE", request.param)
        yield request.param


@pytest.mark.usefixtures("block")
@settings(max_examples=60, deadline=None)
@given(TENSORS, st.sampled_from(sorted(FORECASTERS)), st.booleans())
def test_in_place_is_the_pure_jump_and_one_weight_at_a_time(
    kinds: Any, name: str, spared: bool
) -> None:
    """Whatever the backups alias."""
    past = Past8(kinds, FORECASTERS[name]())
    context = past.forecaster.sees
    before = [(p.data_ptr(), p.stride()) for p in past.parameters]
    snapshots = [past.history[s] for s in context.steps(T).tolist()]
    pure = jump(
        *(past.history[T], snapshots, past.forecaster),
        step=T,
        horizon=None if isinstance(past.forecaster, LinearFit) else "+4",
        scales=past.scales,
    )
    backups = past.backups(spared)
    squares = past.jump(backups)
    assert [(p.data_ptr(), p.stride()) for p in past.parameters] == before
    assert past.backed_up(backups)
    for i, (found, expected) in enumerate(zip(past.parameters, pure, strict=True)):
        rough = found.dtype == torch.bfloat16
        close = {"rtol": 1e-2, "atol": 1e-2} if rough else {"rtol": 2e-5, "atol": 2e-5}
        torch.testing.assert_close(found, expected, **close)
        tensors = [snapshot[i] for snapshot in past.history]
        for place in np.ndindex(*found.shape):
            slow = slow_forecast(past.forecaster, tensors, place)
            assert float(found[place]) == pytest.approx(slow, rel=close["rtol"], abs=close["atol"])
        sums = [float(v.double().square().sum()) for v in (past.history[T][i], found)]
        assert squares[i] == pytest.approx(sums, rel=1e-5)


@pytest.mark.usefixtures("block")
@settings(max_examples=40, deadline=None)
@given(
    TENSORS,
    st.sampled_from([n for n in sorted(FORECASTERS) if n not in ("line", "linear fit")]),
    st.integers(1, 12),
    st.sampled_from([RuntimeError, KeyboardInterrupt, NonFiniteError]),
    st.booleans(),
)
def test_a_failure_on_the_way_leaves_all_weights_alone(
    kinds: Any, name: str, failing: int, error: type[BaseException], spared: bool
) -> None:
    past = Past8(kinds, FORECASTERS[name]())
    past.forecaster.failure = failing, error("in the middle")
    backups = past.backups(spared)
    squares = []
    with contextlib.suppress(RuntimeError, KeyboardInterrupt):
        squares = past.jump(backups)
    if past.forecaster.blocks < failing:  # there were not so many
        assert squares
        return
    assert past.unchanged()
    assert bool(squares) == (error is NonFiniteError)
    assert all(math.isnan(after) for _, after in squares)
    assert not squares or past.backed_up(backups)


# ---- what it takes


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that torch's allocator gives out at most while a call runs, more than at its start."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate((n for _, n in changes), initial=0))


LARGE = [((50, 1000), torch.float32, "dense"), ((64,), torch.float32, "dense")] * 3
BLOCK = 1 << 14


@pytest.mark.parametrize("name", ["line", "linear fit", "windows and snapshots"])
def test_a_jump_takes_a_block_or_two_and_no_copy_of_the_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "IN_PLACE", BLOCK)
    past = Past8(LARGE, FORECASTERS[name]())
    backups = past.backups(spared=True)
    assert any(b is s for b in backups for s in held_rows(past.watch))  # nothing new
    taken = peak_of(lambda: past.jump(backups))
    blocks = {"windows and snapshots": 9}.get(name, 2)  # a kernel's own rows are a block each
    assert 4 * BLOCK <= taken <= blocks * 4 * BLOCK + 8192  # and some norms
    past = Past8(LARGE, FORECASTERS[name]())
    copied = peak_of(lambda: past.backups(spared=False))
    assert copied == 3 * 4 * 50_064


def held_rows(watch: Watch) -> list[torch.Tensor]:
    snapshots = itertools.chain.from_iterable(watch._snapshots.values())
    return [*snapshots, *(s.first for sums in watch._sums.values() for s in sums.each)]


def test_a_jump_that_can_spare_nothing_states_its_copy() -> None:
    weight = [torch.zeros(1000)]
    assert Watch(Context.of("1"), [T], weight).memory() == 4 * 1000
    assert Watch(Context.of("1"), [T], weight).memory(2, 500) == 4 * 1000 + 500
    assert Watch(Context.of("1,0.5"), [T], weight).memory() == 4 * 1000
    assert Watch(Context.of("1,0.5"), [T], weight).memory(2, 500) == 4 * 1000 + 500
    halves = Watch(Context.of("1,0.5"), [T], weight, Placement(half=True))
    assert halves.memory() == 2 * 1000 + 4 * 1000  # which are not exact: nothing to spare


# ---- many small tensors


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.sampled_from("ab")), max_size=30),
    st.integers(1, 60_000),
)
def test_packs_have_every_tensor_once(items: list[tuple[int, str]], most: int) -> None:
    numbered = [(i, size, kind) for i, (size, kind) in enumerate(items)]
    found = list(packs(numbered, most))
    assert sorted(i for pack in found for i in pack) == list(range(len(items)))
    for pack in found:
        assert pack == sorted(pack)
        assert len({items[i][1] for i in pack}) == 1
        if len(pack) > 1:
            assert sum(items[i][0] for i in pack) <= most
            assert all(items[i][0] <= packing.SMALL for i in pack)
    for kind in "ab":  # and no pack is left half empty beside another
        small = [p for p in found if items[p[0]][1] == kind]
        small = [p for p in small if items[p[0]][0] <= min(packing.SMALL, most)]
        totals = [sum(items[i][0] for i in p) for p in small]
        assert all(a + items[p[0]][0] > most for a, p in zip(totals, small[1:], strict=False))


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sums_of_small_tensors_are_those_of_each_alone(dtype: torch.dtype, spread: bool) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(n).to(dtype) for n in (5, 20_000, 1, 7)]
    window = Window(6, 2)
    together = ModelSums(window, 0, weights, layouts_of(weights), spread=spread)
    kept = torch.promote_types(dtype, torch.float32)
    alone = [RunningSums(window, w.to(kept), spread=spread) for w in weights]
    for step in range(1, 7):
        for w in weights:
            w += torch.randn(len(w)).to(dtype)
        together.see(step)
        for sums, w in zip(alone, weights, strict=True):
            if step % 2 == 0:
                sums.add(w)
    for a, b in zip(together.each, alone, strict=True):
        assert a.count == b.count == 4
        names = ("first", "total", "moment", *(["squares"] if spread else []))
        assert all(torch.equal(getattr(a, n), getattr(b, n)) for n in names)


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 99))
def test_sums_with_one_more_snapshot_are_those_that_took_it(low: int, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    walk = random.normal(size=(4, 12)).astype(np.float32)
    sums, whole = (RunningSums(Window(3, 1), walk[0]) for _ in range(2))
    for i in (1, 2):
        sums.add(walk[i])
        whole.add(walk[i])
    before = [a.copy() for a in (sums.first, sums.total, sums.moment, sums.squares)]
    part = slice(low, low + size)
    arriving = Arriving(sums, walk[3, part], part)
    whole.add(walk[3])
    for kind in ("mean", "slope", "spread"):
        row, expected = arriving.row(kind), getattr(whole, kind)(part)
        assert len(row) == size
        np.testing.assert_array_equal(row[:], expected)
        np.testing.assert_array_equal(row[1:3], expected[1:3])
        if row.terms:
            combined = sum(array * factor for array, factor in row.terms)
            np.testing.assert_allclose(combined, expected, rtol=1e-5, atol=1e-6)
    after = (sums.first, sums.total, sums.moment, sums.squares)
    assert sums.count == 3
    assert all(map(np.array_equal, before, after))


# ---- elsewhere, and in half precision


def test_it_is_computed_where_the_result_is() -> None:
    """Rows in the host's memory, for weights elsewhere."""
    _, like = measure([torch.zeros(3), 1.0], torch.zeros(3, device="meta"), Context.of("1,ahead"))
    assert (like.device.type, like.dtype) == ("meta", torch.float32)
    _, like = measure([torch.zeros(3, dtype=torch.float64)], torch.zeros(3), Context.of("1"))
    assert (like.device.type, like.dtype) == ("cpu", torch.float64)


def test_the_host_waits_for_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    devices = [torch.device("cuda:1"), torch.device("cpu"), torch.device("cuda:1")]
    Placement("device").wait(devices)
    assert waited == []
    Placement("host").wait(devices)
    assert waited == ["cuda:1"]


def test_half_precision_forecasts_from_what_it_holds() -> None:
    kinds = [((2, 3), torch.float32, "dense"), ((3,), torch.bfloat16, "dense")]
    forecaster = FORECASTERS["snapshots"]()
    past = Past8(kinds, forecaster, Placement(half=True))
    seen = [[v.half().to(v) if i == 0 else v for i, v in enumerate(s)] for s in past.history]
    seen[T] = past.history[T]  # the present weights are those that they are
    pure = jump(past.history[T], [seen[s] for s in (8, 4, 0)], forecaster, step=T)
    past.jump(past.backups(spared=True))
    for found, expected in zip(past.parameters, pure, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_half_precision_refuses_what_it_cannot_hold() -> None:
    weight = nn.Parameter(torch.tensor([7e4, 1.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    Jumper(optimizer, LinearFit(), [4], guard=None, placement=Placement(half=True))
    weight.grad = torch.ones(2)
    for _ in range(3):
        optimizer.step()
    with pytest.raises(NonFiniteError, match="no weight was changed"):
        optimizer.step()
    assert weight.tolist() == [7e4 - 4, -3.0]
