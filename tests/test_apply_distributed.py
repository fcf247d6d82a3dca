"""Jumps in runs of several processes: replicas stay the same, shards are as in one process."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_jumps import END, FORECASTERS, JUMPS, RANKS, STEPS, T
from test_apply_windows import Blend
from torch import nn

from weightcast.apply import Guard, Jumper
from weightcast.predictor import Forecaster

SCRIPT = Path(__file__).parent / "distributed_jumps.py"
Found = dict[str, Any]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What all scenarios gave on each rank."""
    folder = tmp_path_factory.mktemp("distributed")
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context((folder / f"{rank}.log").open("w+")) for rank in range(RANKS)]
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(SCRIPT), str(folder), str(rank)], stdout=log, stderr=log
                )
            )
            for rank, log in enumerate(logs)
        ]
        try:
            codes = [process.wait(timeout=300) for process in running]
        finally:
            for process in running:
                process.kill()
    assert codes == [0, 0], "".join((folder / f"{rank}.log").read_text() for rank in range(RANKS))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def same(one: Any, two: Any) -> bool:
    """Whether all tensors in two trees are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and one.numpy().tobytes() == two.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def kinds(found: Found) -> list[str]:
    """What happened, without the steps and reasons."""
    words = ("jumped", "kept", "rolled back", "refused")
    return [next(w for w in words if f" {w}: " in event) for event in found["events"]]


def weights(found: Found) -> Any:
    """At the steps that were looked at, before and after what happened there."""
    return [[found[side][step]["weights"] for step in found[side]] for side in ("before", "after")]


@pytest.mark.parametrize("name", ["good", "bad", "nan", "refused", "unguarded"])
@pytest.mark.parametrize("kind", ["replicas", "shards"])
def test_all_ranks_stay_bit_identical(ranks: list[Found], kind: str, name: str) -> None:
    first, second = (found[kind][name] for found in ranks)
    assert same(weights(first), weights(second))
    assert first["events"] == second["events"]
    assert first["after"][T]["weights"][0].isfinite().all()


@pytest.mark.parametrize("kind", ["replicas", "shards"])
def test_the_mean_over_ranks_decides(ranks: list[Found], kind: str) -> None:
    """Rank 0 alone would have come to the opposite of each."""
    for found in ranks:
        assert kinds(found[kind]["good"]) == ["jumped", "kept"]
        assert kinds(found[kind]["bad"]) == ["jumped", "rolled back"]
        assert kinds(found[kind]["nan"]) == ["jumped", "rolled back"]
        assert "its loss is nan" in found[kind]["nan"]["events"][1]
        bad = found[kind]["bad"]["events"][1]
        judged = range(T + STEPS - 6, T + STEPS + 1)  # the second half of 13 steps
        assert f"loss {sum(1.2 * 100 / step for step in judged) / 7:.4g} " in bad


@pytest.mark.parametrize("kind", ["replicas", "shards"])
def test_a_roll_back_is_exact_on_every_rank(ranks: list[Found], kind: str) -> None:
    for found in ranks:
        run = found[kind]["bad"]
        before, jumped, after = run["before"][T], run["after"][T], run["after"][T + STEPS]
        assert not same(before["weights"], jumped["weights"])
        assert same(before, after)  # weights, Adam's state, this rank's BatchNorm statistics
        assert not same(run["before"][T + STEPS]["state"], after["state"])
        assert not same(run["before"][T + STEPS]["buffers"], after["buffers"])


@pytest.mark.parametrize("kind", ["replicas", "shards"])
@pytest.mark.parametrize("stop", [T - 3, T + 7])
def test_a_resumed_run_is_the_uninterrupted_one(ranks: list[Found], kind: str, stop: int) -> None:
    """From rank 0's checkpoint where ranks are replicas: the losses of rank 1 are in it too."""
    for found in ranks:
        whole, resumed = found[kind]["bad"], found[kind]["resumed"][stop]
        assert same(resumed["after"][END]["weights"], whole["after"][END]["weights"])
        assert same(resumed["after"][END]["state"], whole["after"][END]["state"])
        assert resumed["events"] == whole["events"]


@pytest.mark.parametrize("kind", ["replicas", "shards"])
def test_what_is_not_finite_on_one_rank_is_refused_on_all(ranks: list[Found], kind: str) -> None:
    for rank, found in enumerate(ranks):
        run = found[kind]["refused"]
        assert kinds(run) == ["refused"]
        assert "NaN" in run["events"][0]
        assert not run["error"]
        assert same(run["before"][T]["weights"], run["after"][T]["weights"])
        run = found[kind]["unguarded"]
        assert ("parameter 0 is" if rank else "some weights are") in run["error"]
        assert same(run["before"][T]["weights"], run["after"][T]["weights"])


def test_a_rank_without_losses_goes_by_those_of_others(ranks: list[Found]) -> None:
    for found in ranks:
        assert kinds(found["silent"]) == ["jumped", "rolled back"]
        assert same(weights(found["silent"]), weights(ranks[0]["silent"]))


def test_what_probes_tell_is_shared(ranks: list[Found]) -> None:
    first, second = (found["probed"] for found in ranks)
    assert first["judge"]["probed"] == second["judge"]["probed"]
    assert first["judge"]["probed"][0][1] == pytest.approx(2.5)
    assert kinds(first) == ["jumped", "kept"]
    assert same(weights(first), weights(second))


# ---- shards


def in_one_process(found: Found, forecaster: Forecaster) -> list[list[torch.Tensor]]:
    """The weights after each step of a run, jumped by one process that has all of them."""
    model = [nn.Parameter(p.clone()) for p in found["after"][0]["weights"]]
    optimizer = torch.optim.SGD(model, lr=1.0)  # there are no gradients
    steps, seen = sorted(found["before"]), []

    @torch.no_grad()
    def train(*_: Any) -> None:
        for p, value in zip(model, found["before"][steps[len(seen)]]["weights"], strict=True):
            p.copy_(value)

    optimizer.register_step_post_hook(train)
    with Jumper(optimizer, forecaster, [20, T], guard=None):
        for _ in steps:
            optimizer.step()
            seen.append([p.detach().clone() for p in model])
    return seen


@pytest.mark.parametrize(("kind", "name"), JUMPS)
def test_jumps_of_shards_are_those_of_the_whole_model(
    ranks: list[Found], kind: str, name: str
) -> None:
    """Scales, sizes and fan-ins are those of whole tensors, whatever a rank has of them."""
    found = ranks[0][f"{kind} {name}"]
    expected = in_one_process(found, FORECASTERS[name]())
    assert len(found["before"]) == T + 2
    for step, values in zip(sorted(found["before"]), expected, strict=True):
        assert same(found["after"][step]["weights"], values), step
    assert not same(found["before"][T]["weights"], found["after"][T]["weights"])
    assert all(same(weights(other[f"{kind} {name}"]), weights(found)) for other in ranks)
    assert "72 weights" in found["events"][0]  # of all ranks


def test_shards_are_uneven_and_some_empty(ranks: list[Found]) -> None:
    """Else the tests above would show less than they seem to."""
    assert [found["all mixed"]["held"] for found in ranks] == [
        [21, 3, 3, 3, 10, 2, 3, 1],
        [14, 2, 2, 2, 5, 1, 0, 0],
    ]
    one, two = (found["all mixed"]["memory"] for found in ranks)
    whole, _ = (found["replicated mixed"]["memory"] for found in ranks)
    assert one + two == whole


# ---- what cannot be


def test_fsdp_of_the_first_form_is_refused(ranks: list[Found]) -> None:
    for message in itertools.chain(*(found["flat"] for found in ranks)):
        assert "fully_shard (FSDP2)" in message


def test_ranks_that_would_jump_otherwise_are_refused(ranks: list[Found]) -> None:
    for found in ranks:
        assert "all ranks of a distributed run jump alike" in found["unlike"]
        assert f"jump: {T} to {2 * T}" in found["unlike"]
        assert f"jump: {T + 1} to {2 * T + 2}" in found["unlike"]


def test_ranks_that_would_jump_a_little_otherwise_are_refused(ranks: list[Found]) -> None:
    for message in itertools.chain(*(found["hardly unlike"] for found in ranks)):
        assert "all ranks of a distributed run jump alike" in message


def test_a_rank_that_jumps_alone_does_not_hang(ranks: list[Found]) -> None:
    assert "rank 1 has made no jumper" in ranks[0]["alone"]


# ---- one process


def on_no_device(steps: int, **options: Any) -> Jumper:
    """A run on torch's meta device, which has no numbers: whoever wants to read one fails."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to("meta")
    optimizer = torch.optim.Adam(model.parameters())
    jumper = Jumper(optimizer, Blend("1,0.5,t-3,slope:12/4,mean:12/4,size"), [20], **options)
    for _ in range(steps):
        jumper.zero_grad()
        model(torch.zeros(8, 3, device="meta")).square().mean().backward()
        jumper.step()
    return jumper


@pytest.mark.parametrize("guard", [None, Guard(steps=5)], ids=["plain", "guarded"])
def test_no_step_without_a_jump_waits_for_a_device(guard: Guard | None) -> None:
    with on_no_device(19, guard=guard) as jumper:
        assert jumper.step_count == 19
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|scalarType"):
        on_no_device(20, guard=guard)
