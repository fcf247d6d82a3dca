"""Perturbing a recorded step: what each kind keeps and what it changes, under masks and seeds."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn

from weightcast.apply import PerturbReport, perturb
from weightcast.apply.perturbing import KINDS
from weightcast.recorder import Recorder
from weightcast.store import (
    History,
    HistoryWriter,
    NonFiniteError,
    ParameterTable,
    ShapeError,
    StepNotRecordedError,
    UsageError,
)

State = dict[str, torch.Tensor]
WEIGHTS = ("0.weight", "3.weight")  # what is perturbed by default
SHUFFLES = ("shuffle-filter", "shuffle-layer", "shuffle-global")


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 6))


def state_of(model: nn.Module) -> State:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, list[State]]:
    """Two steps with every weight at another place, and the states at each."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    path = tmp_path_factory.mktemp("perturbing") / "run.zarr"
    states = [state_of(model)]
    with Recorder(model, path) as recorder:
        for step in range(2):
            x = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            recorder()
            states.append(state_of(model))
    return History(path), states


def masks(share: float, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in network().named_parameters()}
    return {name: torch.rand(shapes[name], generator=generator) < share for name in WEIGHTS}


def perturbed(history: History, kind: str, **options: Any) -> tuple[State, PerturbReport]:
    model = network()
    for p in model.parameters():
        p.data.fill_(99.0)
    report = perturb(model, history, 2, kind, **options)
    return state_of(model), report


def bag(values: Any) -> Counter[float]:
    return Counter(np.asarray(values).ravel().tolist())


def scopes(kind: str, state: State, mask: State) -> list[list[float]]:
    """Slow and obvious: the kept weights of each group that a kind permutes."""
    if kind == "shuffle-filter":
        return [
            state[name][i][mask[name][i]].tolist()
            for name in WEIGHTS
            for i in range(len(state[name]))
        ]
    layers = [state[name][mask[name]].tolist() for name in WEIGHTS]
    return layers if kind == "shuffle-layer" else [[*itertools.chain(*layers)]]


KEPT = st.sampled_from([0.0, 0.1, 0.5, 1.0])
SEEDS = st.integers(0, 2**64 - 1)


@settings(max_examples=60)
@given(kind=st.sampled_from(KINDS), share=KEPT, seed=SEEDS, drawn=st.integers(0, 1000))
def test_each_kind_keeps_what_it_says(
    run: tuple[History, list[State]], kind: str, share: float, seed: int, drawn: int
) -> None:
    history, (start, _, recorded) = run
    mask = masks(share, drawn)
    now, report = perturbed(history, kind, seed=seed, mask=mask)
    if kind in SHUFFLES:
        assert [*map(bag, scopes(kind, now, mask))] == [*map(bag, scopes(kind, recorded, mask))]
    for name in WEIGHTS:
        kept = mask[name]
        assert not now[name][~kept].any()
        if kind in ("signs", "magnitudes"):
            same = torch.signbit if kind == "signs" else torch.abs
            assert torch.equal(same(now[name][kept]), same(recorded[name][kept]))
        if kind == "signs":
            assert bag(now[name][kept].abs()) <= bag(start[name].abs())
    untouched = recorded.keys() - set(WEIGHTS)
    assert all(torch.equal(now[name], recorded[name]) for name in untouched)
    assert "1.running_var" in untouched
    gone, moved = (
        sum(float((a[n] - b[n])[mask[n]].double().square().sum()) for n in WEIGHTS)
        for a, b in ((now, recorded), (recorded, start))
    )
    assert report.distance == pytest.approx(gone**0.5, rel=1e-5)
    assert (report.relative is None) == (moved == 0)
    if moved:
        assert report.relative == pytest.approx((gone / moved) ** 0.5, rel=1e-5)
    every = sum(int(m.sum()) for m in mask.values())
    assert (report.weights, report.masked) == (every, 72 + 24 - every)
    assert (report.step, report.start, report.kind) == (2, 0, kind)
    assert (report.tensors, report.left) == (WEIGHTS, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_decide(run: tuple[History, list[State]], kind: str) -> None:
    history, (_, _, recorded) = run
    torch.manual_seed(5)
    now, _ = perturbed(history, kind, seed=1)
    assert torch.initial_seed() == 5
    again, _ = perturbed(history, kind, seed=1)
    other, _ = perturbed(history, kind, seed=2)
    for name in WEIGHTS:
        assert torch.equal(now[name], again[name])
        assert not torch.equal(now[name], other[name])
        assert not torch.equal(now[name], recorded[name])
    if kind != "shuffle-global":
        alone, report = perturbed(history, kind, seed=1, exclude=["0.*"])
        assert report.tensors == ("3.weight",)
        assert torch.equal(alone["3.weight"], now["3.weight"])
        assert torch.equal(alone["0.weight"], recorded["0.weight"])


def test_wider_shuffles_leave_their_narrower_scopes(run: tuple[History, list[State]]) -> None:
    history, (_, _, recorded) = run
    every = masks(2, 0)
    for kind, narrower in (
        ("shuffle-layer", "shuffle-filter"),
        ("shuffle-global", "shuffle-layer"),
    ):
        now, _ = perturbed(history, kind, seed=0)
        assert [*map(bag, scopes(narrower, now, every))] != [
            *map(bag, scopes(narrower, recorded, every))
        ]


@pytest.mark.parametrize("kind", ["shuffle-filter", "shuffle-layer", "shuffle-global"])
def test_all_orders_of_the_kept_come_up(tmp_path: Path, kind: str) -> None:
    model = nn.Linear(5, 1, bias=False)
    Recorder(model, tmp_path / "run.zarr").close()
    mask = {"weight": torch.tensor([[True, False, True, True, False]])}
    orders: Counter[tuple[float, ...]] = Counter()
    kept = model.weight.detach()[mask["weight"]].tolist()
    for seed in range(120):
        perturb(model, tmp_path / "run.zarr", 0, kind, seed=seed, mask=mask)
        orders[tuple(model.weight.detach()[mask["weight"]].tolist())] += 1
    assert orders.keys() == set(itertools.permutations(kept))
    assert max(orders.values()) < 45  # 20 are expected of each


def wide(path: Path, rows: np.ndarray, steps: list[int]) -> tuple[nn.Module, Path]:
    table = ParameterTable.of([("weight", (4, rows.shape[1] // 4), "float32", "weight")])
    with HistoryWriter.create(path, table) as writer:
        writer.append(steps, np.zeros(len(steps)), rows.astype(np.float32))
    return nn.Linear(rows.shape[1] // 4, 4, bias=False), path


def test_noise_has_the_size_of_the_change_so_far(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = np.stack([np.zeros(40_000), 7 + 0.3 * random.normal(size=40_000)])
    model, path = wide(tmp_path / "run.zarr", rows, [3, 8])
    for scale in (1.0, 2.5):
        report = perturb(model, path, 8, "noise", seed=0, scale=scale)
        noise = model.weight.detach().numpy().ravel() - rows[1]
        assert noise.std() == pytest.approx(scale * 0.3, rel=0.02)
        assert abs(noise.mean()) < 0.01 * scale
    assert report.start == 3  # the first recorded step, where there is no step 0
    perturb(model, path, 8, "noise", seed=0, scale=0.0)
    assert (model.weight.detach().numpy().ravel() == rows[1].astype(np.float32)).all()
    mask = {"weight": torch.ones(4, 10_000, dtype=torch.bool)}
    mask["weight"][:2] = False
    rows[1, :20_000] += 1000 * random.normal(size=20_000)  # what is pruned says nothing of the size
    model, path = wide(tmp_path / "pruned.zarr", rows, [0, 1])
    perturb(model, path, 1, "noise", seed=0, mask=mask)
    noise = model.weight.detach().numpy().ravel()[20_000:] - rows[1, 20_000:]
    assert noise.std() == pytest.approx(0.3, rel=0.02)


def test_magnitudes_get_signs_at_random(tmp_path: Path) -> None:
    model, path = wide(tmp_path / "run.zarr", np.ones((1, 40_000)), [0])
    report = perturb(model, path, 0, "magnitudes", seed=3)
    assert float((model.weight > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert report.relative is None  # nothing moved so far


def test_include_perturbs_biases_and_norms_too(run: tuple[History, list[State]]) -> None:
    history, (_, _, recorded) = run
    now, report = perturbed(history, "noise", seed=0, include=["*.bias", "1.*"], exclude=["3.*"])
    assert report.tensors == ("0.bias", "1.weight", "1.bias")
    for name, tensor in recorded.items():
        assert torch.equal(now[name], tensor) == (name not in report.tensors)


def test_the_code_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "docs/early.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rows = np.random.default_rng(0).normal(size=(2, 32))
    model, _ = wide(tmp_path / "run.zarr", rows, [0, 500])
    mask = {"weight": torch.arange(32).reshape(4, 8) % 2 == 0}
    known: dict[str, Any] = {"model": model, "mask": mask}
    exec(compile(program, "docs/early.md", "exec"), known)
    assert (known["report"].step, known["report"].kind) == (500, "shuffle-filter")
    assert bag(model.weight.detach()[mask["weight"]]) == bag(rows[1, ::2].astype(np.float32))


def test_what_is_refused_changes_nothing(run: tuple[History, list[State]], tmp_path: Path) -> None:
    history, _ = run
    model = network()
    before = state_of(model)
    small = {"0.weight": torch.ones(4, dtype=torch.bool)}
    foreign = {"4.weight": torch.ones(3, dtype=torch.bool)}
    cases: list[tuple[type[Exception], tuple[Any, ...], dict[str, Any], int, str]] = [
        (UsageError, ("shuffle-filter", "'shuffle-filer'"), {}, 2, "shuffle-filer"),
        (UsageError, KINDS, {}, 2, "entirely else"),
        (StepNotRecordedError, ("step 7", "nearest are 2"), {}, 7, "noise"),
        (ShapeError, ("4.weight",), {"mask": foreign}, 2, "noise"),
        (ShapeError, ("0.weight", "[4, 2, 3, 3]"), {"mask": small}, 2, "signs"),
        (UsageError, ("nothing", "check the globs"), {"include": ["5.*"]}, 2, "noise"),
        (UsageError, ("scale", "-1"), {"scale": -1}, 2, "noise"),
        (UsageError, ("scale", "nan"), {"scale": float("nan")}, 2, "noise"),
        (UsageError, ("scale", "'x'"), {"scale": "x"}, 2, "noise"),
        (UsageError, ("seed", "-3"), {"seed": -3}, 2, "noise"),
    ]  # fmt: skip
    for error, words, options, step, kind in cases:
        with refuses(error, *words):
            perturb(model, history, step, kind, **{"seed": 0, **options})
    with refuses(ShapeError, "0.weight"):
        perturb(nn.Sequential(nn.Linear(2, 2)), history, 2, "noise", seed=0)
    with refuses(UsageError, "torch.nn.Module"):
        perturb({}, history, 2, "noise", seed=0)  # type: ignore[arg-type]
    for name, tensor in state_of(model).items():
        assert torch.equal(tensor, before[name])
    for bad in ([[1, np.nan, 1, 1], [1, 1, 1, 1]], [[1, 1, 1, 1], [1, 1, np.inf, 1]]):
        tiny, path = wide(tmp_path / f"{np.isnan(bad[0]).any()}.zarr", np.array(bad), [0, 10])
        with refuses(NonFiniteError, "'weight'", f"step {0 if np.isnan(bad[0]).any() else 10}"):
            perturb(tiny, path, 10, "noise", seed=0)
