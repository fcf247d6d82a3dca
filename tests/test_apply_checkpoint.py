"""Offline jumps: what is written, what stays, and what is refused without writing anything."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from store_reference import Recorded, refuses, vector, wandering
from torch import nn

from weightcast.apply import JumpReport, jump, jump_checkpoint
from weightcast.predictor import Introspection, LastValue, LinearFit
from weightcast.recorder import Recorder
from weightcast.store import (
    FormatError,
    History,
    InputNotFoundError,
    NonFiniteError,
    OutputExistsError,
    ShapeError,
    StepNotRecordedError,
    UsageError,
    WeightcastError,
)

State = dict[str, torch.Tensor]
STEP = 10


@dataclass(frozen=True)
class Run:
    """A recorded run of 20 steps, and its states at each of them."""

    history: History
    states: list[State]
    moments: list[Any]

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.history.parameters]


def record(model: nn.Module, path: Path) -> Run:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    states, moments = [copy_of(model.state_dict())], [None]
    with Recorder(model, path).attach(optimizer):
        for step in range(1, 21):
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            states.append(copy_of(model.state_dict()))
            moments.append(through_a_file(optimizer.state_dict(), path.parent))
    return Run(History(path), states, moments)


def copy_of(state: State) -> State:
    return {name: t.clone() for name, t in state.items()}


def through_a_file(value: Any, folder: Path) -> Any:
    torch.save(value, folder / "copy.pt")
    return torch.load(folder / "copy.pt", weights_only=True)


def normed() -> nn.Module:
    """Parameters and buffers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return record(normed(), tmp_path_factory.mktemp("run") / "run.zarr")


def network() -> Introspection:
    X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    return Introspection(hidden=5, steps=50).fit(X, X[:, 0])


def by_hand(run: Run, forecaster: Any, context: list[int]) -> State:
    """The state at the first step of the context, with its parameters jumped."""
    snapshots = [[run.states[s][name] for name in run.names] for s in context]
    forecasts = jump(snapshots[0], snapshots, forecaster)
    return run.states[context[0]] | dict(zip(run.names, forecasts, strict=True))


def same(these: State, those: State) -> bool:
    return list(these) == list(those) and all(
        a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(these.values(), those.values(), strict=True)
    )


def load_torch(path: Path) -> Any:
    return torch.load(path, weights_only=True)


# ---- what is written


@pytest.mark.parametrize("forecaster", [LinearFit(), network()], ids=repr)
def test_a_state_dict_is_jumped_as_by_hand(run: Run, forecaster: Any, tmp_path: Path) -> None:
    torch.save(run.states[STEP], tmp_path / "in.pt")
    report = jump_checkpoint(run.history, STEP, forecaster, tmp_path / "in.pt", tmp_path / "out.pt")
    expected = by_hand(run, forecaster, [10, 7, 4, 0])
    found = load_torch(tmp_path / "out.pt")
    if isinstance(forecaster, LinearFit):
        assert same(found, expected)
    else:  # its matrix products are over other blocks of weights: rounded in another order
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)
    moves = [
        float((expected[name].double() - run.states[STEP][name].double()).abs().sum())
        for name in run.names
    ]
    count = sum(run.states[STEP][name].numel() for name in run.names)
    assert report == JumpReport(
        [10, 7, 4, 0], 20, count, pytest.approx(sum(moves) / count, rel=1e-5), 0.0
    )
    assert same(load_torch(tmp_path / "in.pt"), run.states[STEP])


def test_buffers_stay_as_they_are(run: Run, tmp_path: Path) -> None:
    torch.save(run.states[STEP], tmp_path / "in.pt")
    jump_checkpoint(run.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")
    found = load_torch(tmp_path / "out.pt")
    buffers = set(found) - set(run.names)
    assert buffers == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert all(torch.equal(found[name], run.states[STEP][name]) for name in buffers)
    assert not any(torch.equal(found[name], run.states[STEP][name]) for name in run.names)


def test_what_is_written_loads_into_the_model(run: Run, tmp_path: Path) -> None:
    torch.save(run.states[STEP], tmp_path / "in.pt")
    jump_checkpoint(run.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")
    model = normed()
    model.load_state_dict(load_torch(tmp_path / "out.pt"))
    assert torch.equal(model[0].weight, by_hand(run, LinearFit(), [10, 7, 4, 0])["0.weight"])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("named", [False, True])
def test_a_nested_state_dict_is_found(run: Run, key: str, named: bool, tmp_path: Path) -> None:
    document = {
        "epoch": 3,
        "optimizer": run.moments[STEP],
        key: run.states[STEP],
        "rate": [0.1, {"note": "text"}],
    }
    torch.save(document, tmp_path / "in.pt")
    jump_checkpoint(
        run.history,
        STEP,
        LinearFit(),
        tmp_path / "in.pt",
        tmp_path / "out.pt",
        key=key if named else None,
    )
    found = load_torch(tmp_path / "out.pt")
    assert list(found) == list(document)
    assert same(found[key], by_hand(run, LinearFit(), [10, 7, 4, 0]))
    assert (found["epoch"], found["rate"]) == (3, [0.1, {"note": "text"}])
    assert found["optimizer"]["param_groups"] == run.moments[STEP]["param_groups"]
    for index, state in run.moments[STEP]["state"].items():
        assert same(found["optimizer"]["state"][index], state)


def test_a_key_picks_among_several(run: Run, tmp_path: Path) -> None:
    torch.save({"model": run.states[3], "ema": run.states[STEP]}, tmp_path / "in.pt")
    report = jump_checkpoint(
        run.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt", key="ema"
    )
    found = load_torch(tmp_path / "out.pt")
    assert report.drift == 0
    assert same(found["ema"], by_hand(run, LinearFit(), [10, 7, 4, 0]))
    assert same(found["model"], run.states[3])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrapped_models_are_understood(run: Run, prefix: str, tmp_path: Path) -> None:
    wrapped = {prefix + name: t for name, t in run.states[STEP].items()}
    torch.save(wrapped, tmp_path / "in.pt")
    jump_checkpoint(run.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")
    expected = by_hand(run, LinearFit(), [10, 7, 4, 0])
    found = load_torch(tmp_path / "out.pt")
    assert same(found, {prefix + name: t for name, t in expected.items()})


def test_a_model_may_have_a_part_called_module(tmp_path: Path) -> None:
    """Its names begin as those of a wrapped model do, in the history too."""
    inner = record(nn.Sequential(nn.Linear(3, 2)), tmp_path / "plain.zarr")
    model = nn.Sequential()
    model.add_module("module", nn.Linear(3, 2))
    named = record(model, tmp_path / "named.zarr")
    assert named.names == ["module.weight", "module.bias"]
    for wrapper in ("", "module."):
        state = {wrapper + name: t for name, t in named.states[STEP].items()}
        torch.save(state, tmp_path / "in.pt")
        jump_checkpoint(
            named.history,
            STEP,
            LinearFit(),
            tmp_path / "in.pt",
            tmp_path / "out.pt",
            overwrite=True,
        )
        expected = by_hand(named, LinearFit(), [10, 7, 4, 0])
        found = load_torch(tmp_path / "out.pt")
        assert same(found, {wrapper + name: t for name, t in expected.items()})
    with refuses(ShapeError, "'0.weight'"):
        jump_checkpoint(inner.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "other.pt")


class Both(nn.Module):
    """A weight of its own, and one of a part called module, of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.module = nn.Linear(3, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) + x @ self.weight.T


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_names_that_could_be_one_anothers_wrapped_ones_are_not_mixed_up(
    prefix: str, tmp_path: Path
) -> None:
    recorded = record(Both(), tmp_path / "h.zarr")
    assert recorded.names == ["weight", "module.weight"]
    torch.save({prefix + n: t for n, t in recorded.states[STEP].items()}, tmp_path / "in.pt")
    report = jump_checkpoint(
        recorded.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt"
    )
    assert report.drift == 0
    expected = by_hand(recorded, LinearFit(), [10, 7, 4, 0])
    found = load_torch(tmp_path / "out.pt")
    assert same(found, {prefix + name: t for name, t in expected.items()})


def test_an_averaged_model_is_wrapped_but_for_its_count(tmp_path: Path) -> None:
    recorded = record(nn.Sequential(nn.Linear(3, 2)), tmp_path / "h.zarr")
    state = {"n_averaged": torch.tensor(3)}
    state |= {f"module.{name}": t for name, t in recorded.states[STEP].items()}
    torch.save(state, tmp_path / "in.pt")
    jump_checkpoint(recorded.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")
    expected = by_hand(recorded, LinearFit(), [10, 7, 4, 0])
    found = load_torch(tmp_path / "out.pt")
    assert found.pop("n_averaged") == 3
    assert same(found, {f"module.{name}": t for name, t in expected.items()})


def test_a_history_of_some_parameters_jumps_those(tmp_path: Path) -> None:
    model = normed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, tmp_path / "h.zarr", include=["2.*"]).attach(optimizer):
        for _ in range(10):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    torch.save(model.state_dict(), tmp_path / "in.pt")
    report = jump_checkpoint(
        History(tmp_path / "h.zarr"), 10, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt"
    )
    found = load_torch(tmp_path / "out.pt")
    changed = {n for n, t in model.state_dict().items() if not torch.equal(found[n], t)}
    assert changed == {"2.weight", "2.bias"}
    assert report.weights == 10


def test_a_checkpoint_of_other_dtypes_keeps_them(run: Run, tmp_path: Path) -> None:
    expected = by_hand(run, LinearFit(), [10, 7, 4, 0])
    for dtype in (torch.bfloat16, torch.float64):
        state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in expected.items()}
        torch.save(state, tmp_path / "in.pt")
        jump_checkpoint(
            run.history,
            STEP,
            LinearFit(),
            tmp_path / "in.pt",
            tmp_path / "out.pt",
            overwrite=True,
        )
        assert same(load_torch(tmp_path / "out.pt"), state)


def test_parameters_that_take_gradients_can_be_jumped(run: Run, tmp_path: Path) -> None:
    """As ``state_dict(keep_vars=True)`` or ``dict(model.named_parameters())`` are saved."""
    state = {n: nn.Parameter(run.states[STEP][n]) for n in run.names}
    torch.save(state, tmp_path / "in.pt")
    jump_checkpoint(run.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")
    expected = by_hand(run, LinearFit(), [10, 7, 4, 0])
    found = load_torch(tmp_path / "out.pt")
    assert all(torch.equal(found[name], expected[name]) for name in run.names)


def test_empty_parameters_are_no_trouble(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    model.register_parameter("none", nn.Parameter(torch.zeros(0, 4)))
    recorded = record(model, tmp_path / "h.zarr")
    torch.save(recorded.states[STEP], tmp_path / "in.pt")
    jump_checkpoint(recorded.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")
    assert same(load_torch(tmp_path / "out.pt"), by_hand(recorded, LinearFit(), [10, 7, 4, 0]))


# ---- safetensors


@pytest.mark.parametrize(
    ("source", "target"),
    [("in.safetensors", "out.safetensors"), ("in.safetensors", "o.pt"), ("i.pt", "o.safetensors")],
)
def test_safetensors_in_and_out(run: Run, source: str, target: str, tmp_path: Path) -> None:
    save = save_file if source.endswith("safetensors") else torch.save
    save(run.states[STEP], tmp_path / source)
    report = jump_checkpoint(run.history, STEP, LinearFit(), tmp_path / source, tmp_path / target)
    load = load_file if target.endswith("safetensors") else load_torch
    found, expected = load(tmp_path / target), by_hand(run, LinearFit(), [10, 7, 4, 0])
    assert same({n: found[n] for n in sorted(found)}, {n: expected[n] for n in sorted(expected)})
    assert report.drift == 0


def test_what_a_safetensors_file_says_of_itself_stays(run: Run, tmp_path: Path) -> None:
    """Transformers refuses a file without its ``format``."""
    metadata = {"format": "pt", "note": "mine"}
    save_file(run.states[STEP], tmp_path / "in.safetensors", metadata=metadata)
    out = tmp_path / "out.safetensors"
    jump_checkpoint(run.history, STEP, LinearFit(), tmp_path / "in.safetensors", out)
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == metadata


def test_a_nested_checkpoint_does_not_fit_into_safetensors(run: Run, tmp_path: Path) -> None:
    torch.save({"model": run.states[STEP], "epoch": 1}, tmp_path / "in.pt")
    with refuses(UsageError, "safetensors", "out.safetensors"):
        jump_checkpoint(
            run.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.safetensors"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


def test_tensors_that_safetensors_takes_only_as_copies(tmp_path: Path) -> None:
    """Tied ones share memory, and channels_last ones are not contiguous."""
    model = nn.Sequential(nn.Conv2d(3, 2, 2), nn.Conv2d(3, 2, 2)).to(
        memory_format=torch.channels_last
    )
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, tmp_path / "h.zarr").attach(optimizer):
        for _ in range(10):
            model[0](torch.ones(1, 3, 2, 2)).sum().backward()
            optimizer.step()
    torch.save(model.state_dict(), tmp_path / "in.pt")
    history, out = History(tmp_path / "h.zarr"), tmp_path / "out.safetensors"
    jump_checkpoint(history, 10, LinearFit(), tmp_path / "in.pt", out)
    jump_checkpoint(history, 10, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")
    found, expected = load_file(out), load_torch(tmp_path / "out.pt")
    assert {n: t.tolist() for n, t in found.items()} == {n: t.tolist() for n, t in expected.items()}
    assert torch.equal(found["0.weight"], found["1.weight"])
    assert not torch.equal(found["0.weight"], model[0].weight)


def test_a_checkpoint_may_be_replaced_by_its_jump(run: Run, tmp_path: Path) -> None:
    for name, save, load in (
        ("c.pt", torch.save, load_torch),
        ("c.safetensors", save_file, load_file),
    ):
        save(run.states[STEP], tmp_path / name)
        where = tmp_path / name
        jump_checkpoint(run.history, STEP, LinearFit(), where, where, overwrite=True)
        expected = by_hand(run, LinearFit(), [10, 7, 4, 0])
        found = load(where)
        assert all(torch.equal(found[n], t) for n, t in expected.items())


# ---- drift


def test_drift_is_the_largest_difference_from_the_history(run: Run, tmp_path: Path) -> None:
    torch.save(run.states[12], tmp_path / "in.pt")
    report = jump_checkpoint(
        run.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt"
    )
    differences = [
        abs(a - b)
        for name in run.names
        for a, b in zip(
            run.states[12][name].flatten().tolist(),
            run.states[STEP][name].flatten().tolist(),
            strict=True,
        )
    ]
    assert max(differences) > 0
    assert report.drift == pytest.approx(max(differences), rel=1e-12)
    # the jump is made from the history all the same
    expected = by_hand(run, LinearFit(), [10, 7, 4, 0])
    found = load_torch(tmp_path / "out.pt")
    assert all(torch.equal(found[name], expected[name]) for name in run.names)


def test_a_checkpoint_that_diverged_shows_in_the_drift(run: Run, tmp_path: Path) -> None:
    """NaN differs from every number: it must not hide behind a finite maximum."""
    state = copy_of(run.states[STEP])
    state[run.names[-1]][0] = torch.nan
    torch.save(state, tmp_path / "in.pt")
    report = jump_checkpoint(
        run.history, STEP, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt"
    )
    assert report.drift != 0


# ---- what is refused, and leaves nothing behind


def refused(history: History, folder: Path, *, step: int = STEP, **options: Any) -> None:
    """Jump folder/in.pt, expecting an error, and see that the folder is as it was."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    target = options.pop("output", folder / "new" / "out.pt")
    source = options.pop("checkpoint", folder / "in.pt")
    try:
        jump_checkpoint(history, step, LinearFit(), source, target, **options)
    finally:
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
        assert not (folder / "new").exists()


def test_a_step_that_is_not_recorded(tmp_path: Path) -> None:
    steps = [0, 4, 8, 12, 14, 20]
    recorded = Recorded(vector(2), steps, wandering(2, len(steps)).weights)
    history = History(recorded.write(tmp_path / "h.zarr"))
    torch.save({"w": torch.zeros(2)}, tmp_path / "in.pt")
    with refuses(StepNotRecordedError, "step 11", "8 and 12"):
        refused(history, tmp_path, step=11)
    with refuses(StepNotRecordedError, "t = 12", "step 5", "nearest is 4"):
        refused(history, tmp_path, step=12)
    with refuses(StepNotRecordedError, "step 99", "20"):
        refused(history, tmp_path, step=99)
    jump_checkpoint(history, 20, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")


@pytest.mark.parametrize("step", [-3, 0, 1, 2])
def test_a_step_without_a_context(run: Run, step: int, tmp_path: Path) -> None:
    torch.save(run.states[1], tmp_path / "in.pt")
    with refuses(UsageError, f"step {step} ", "too early"):
        refused(run.history, tmp_path, step=step)


def test_no_checkpoint(run: Run, tmp_path: Path) -> None:
    with refuses(InputNotFoundError, tmp_path / "in.pt"):
        refused(run.history, tmp_path)
    with refuses(InputNotFoundError, run.history.path):
        refused(run.history, tmp_path, checkpoint=run.history.path)


@pytest.mark.parametrize("name", ["in.pt", "in.safetensors", "in"])
@pytest.mark.parametrize("data", [b"", b"text\n", b"\x80\x02.", b"h\x00.", b"j", b"\x85", b"PK"])
def test_a_checkpoint_of_garbage(run: Run, name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with refuses(FormatError, tmp_path / name):
        refused(run.history, tmp_path, checkpoint=tmp_path / name)


def test_a_truncated_checkpoint(run: Run, tmp_path: Path) -> None:
    for name, save in (("in.pt", torch.save), ("in.safetensors", save_file)):
        path = tmp_path / name
        save(run.states[STEP], path)
        whole = path.read_bytes()
        for length in (1, 8, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with refuses(FormatError, path):
                refused(run.history, tmp_path, checkpoint=path)


# Opcodes of pickle, so that some of it is understood before it breaks.
OPCODES = st.sampled_from([bytes([b]) for b in b"\x80\x02(.01}])abchjqstuKMXGR\x85\x86"])
GARBAGE = st.binary(max_size=40) | st.lists(OPCODES, max_size=20).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(GARBAGE, st.sampled_from([".pt", ".safetensors"]))
def test_any_garbage_gets_our_error(run: Run, data: bytes, suffix: str) -> None:
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of odd pickles before it refuses them
        path = Path(folder) / f"in{suffix}"
        path.write_bytes(data)
        with pytest.raises(FormatError):
            refused(run.history, Path(folder), checkpoint=path)


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def test_code_in_a_checkpoint_is_not_run(run: Run, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (tmp_path / "in.pt").write_bytes(pickle.dumps({"model": Hostile(marker)}, protocol=2))
    with refuses(FormatError, tmp_path / "in.pt"):
        refused(run.history, tmp_path)
    torch.save({"model": run.states[STEP], "extra": Hostile(marker)}, tmp_path / "in.pt")
    with refuses(FormatError, tmp_path / "in.pt"):
        refused(run.history, tmp_path)
    assert not marker.exists()
    torch.load(tmp_path / "in.pt", weights_only=False)
    assert marker.exists()  # it would have been


def test_a_whole_model_is_refused(run: Run, tmp_path: Path) -> None:
    torch.save(normed(), tmp_path / "in.pt")
    with refuses(FormatError, tmp_path / "in.pt"):
        refused(run.history, tmp_path)


@pytest.mark.parametrize(
    "document",
    [
        [1, 2],
        torch.zeros(3),
        5,
        {},
        {"epoch": 3},
        {"model": {}},
        {"weights": {"w": torch.zeros(1)}},
    ],
    ids=str,
)
def test_a_document_without_a_state_dict(run: Run, document: Any, tmp_path: Path) -> None:
    torch.save(document, tmp_path / "in.pt")
    with refuses(FormatError, tmp_path / "in.pt"):
        refused(run.history, tmp_path)


def test_a_state_dict_of_numbers_for_names(run: Run, tmp_path: Path) -> None:
    torch.save({0: torch.zeros(3)}, tmp_path / "in.pt")
    with refuses(WeightcastError, tmp_path / "in.pt"):
        refused(run.history, tmp_path)


def test_a_key_that_is_not_there(run: Run, tmp_path: Path) -> None:
    torch.save({"model": run.states[STEP], "epoch": 1}, tmp_path / "in.pt")
    with refuses(UsageError, "'ema'", "model, epoch"):
        refused(run.history, tmp_path, key="ema")


def test_a_key_to_something_else(run: Run, tmp_path: Path) -> None:
    document = {"model": run.states[STEP], "epoch": 1, "optimizer": run.moments[STEP]}
    torch.save(document, tmp_path / "in.pt")
    for key in ("epoch", "optimizer"):
        with refuses(FormatError, tmp_path / "in.pt", "--key"):
            refused(run.history, tmp_path, key=key)
    torch.save(run.states[STEP], tmp_path / "in.pt")
    with refuses(FormatError, tmp_path / "in.pt", "--key"):
        refused(run.history, tmp_path, key="0.weight")


def test_a_missing_parameter(run: Run, tmp_path: Path) -> None:
    state = {n: t for n, t in run.states[STEP].items() if n != "2.weight"}
    torch.save(state, tmp_path / "in.pt")
    with refuses(ShapeError, "'2.weight'", "same parameters", tmp_path / "in.pt"):
        refused(run.history, tmp_path)


def test_a_parameter_of_another_shape(run: Run, tmp_path: Path) -> None:
    torch.save(run.states[STEP] | {"2.weight": torch.zeros(4, 2)}, tmp_path / "in.pt")
    with refuses(ShapeError, "'2.weight'", "[4, 2]", "[2, 4]", run.history.path):
        refused(run.history, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_history_that_diverged(value: float, tmp_path: Path) -> None:
    recorded = wandering(3, 21)
    recorded.weights[4, 1] = value
    history = History(recorded.write(tmp_path / "h.zarr"))
    torch.save({"w": torch.zeros(3)}, tmp_path / "in.pt")
    with refuses(NonFiniteError, "w[1] at t = 10", history.path):
        refused(history, tmp_path)
    jump_checkpoint(history, 20, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")


def test_a_forecast_too_large_for_the_checkpoints_dtype(tmp_path: Path) -> None:
    recorded = wandering(3, 11)
    recorded.weights[:] = 4000 * np.arange(11)[:, None]  # at step 20: 80,000
    history = History(recorded.write(tmp_path / "h.zarr"))
    torch.save({"w": torch.full((3,), 40_000.0).half()}, tmp_path / "in.pt")
    with refuses(NonFiniteError, "'w'", "step 20", history.path):
        refused(history, tmp_path)


def test_an_output_that_exists(run: Run, tmp_path: Path) -> None:
    torch.save(run.states[STEP], tmp_path / "in.pt")
    (tmp_path / "out.pt").write_text("mine")
    with refuses(OutputExistsError, tmp_path / "out.pt", "--overwrite"):
        refused(run.history, tmp_path, output=tmp_path / "out.pt")
    jump_checkpoint(
        run.history, STEP, LastValue(), tmp_path / "in.pt", tmp_path / "out.pt", overwrite=True
    )
    assert same(load_torch(tmp_path / "out.pt"), run.states[STEP])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.pt", "out.pt"]
