"""Rewinding: recorded weights come back exactly, in place; what is refused changes nothing."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from store_reference import Recorded, refuses, vector, wandering
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim.swa_utils import AveragedModel
from torch.testing._internal.distributed.fake_pg import FakeStore

from weightcast.apply import RewindReport, jump_checkpoint, rewind, rewind_checkpoint
from weightcast.cli.main import main
from weightcast.predictor import LinearFit
from weightcast.recorder import Recorder
from weightcast.store import (
    FormatError,
    History,
    HistoryWriter,
    InputNotFoundError,
    OutputExistsError,
    ParameterTable,
    ShapeError,
    StepNotRecordedError,
    UsageError,
)

State = dict[str, torch.Tensor]


def normed(dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    return model.to(dtype, memory_format=torch.channels_last)


def train(model: nn.Module, first: int, last: int, states: list[State] | None = None) -> None:
    """SGD without state: all that a run is made of is in its weights and buffers."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(first, last + 1):
        x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x.to(next(model.parameters()).dtype)).square().mean().backward()
        optimizer.step()
        if states is not None:
            states.append(copy_of(model))


def copy_of(model: nn.Module) -> State:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def same(these: State, those: State) -> bool:
    return these.keys() == those.keys() and all(
        t.dtype == those[n].dtype and torch.equal(t, those[n]) for n, t in these.items()
    )


def record(folder: Path, model: nn.Module, **options: Any) -> tuple[History, list[State]]:
    """A run of 20 steps, and its states at each of them."""
    states = [copy_of(model)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, folder / "run.zarr", **options) as recorder:
        for step in range(1, 21):
            train(model, step, step, states)
            recorder()
    del optimizer
    return History(folder / "run.zarr"), states


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, list[State]]:
    return record(tmp_path_factory.mktemp("run"), normed())


# ---- live models


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_training_on_from_a_rewound_step_gives_the_run_again(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = normed(dtype)
    history, states = record(tmp_path, model)
    before = {n: (id(t), t.data_ptr(), t.stride()) for n, t in model.named_parameters()}
    model[0].bias.requires_grad_(False)
    for step in (7, 0, 19):
        report = rewind(model, history.path, step)
        assert same(copy_of(model), states[step])
        assert (report.error, report.rounding, report.left, report.masked) == (None, 0.0, 0, 0)
    model[0].bias.requires_grad_(True)
    assert {n: (id(t), t.data_ptr(), t.stride()) for n, t in model.named_parameters()} == before
    rewind(model, history, 7)
    again = list(states[:8])
    train(model, 8, 20, again)
    assert all(same(a, b) for a, b in zip(again, states, strict=True))


def test_the_report_counts(run: tuple[History, list[State]]) -> None:
    history, states = run
    model = normed()
    model.load_state_dict(states[20])
    model.register_buffer("mine", torch.ones(3))
    weights = [p.name for p in history.parameters]  # and not how many batches were counted
    changed = max(float((states[20][n] - states[5][n]).abs().max()) for n in weights)
    expected = RewindReport(
        step=5,
        weights=history.parameters.size,
        buffers=5,
        masked=0,
        changed=pytest.approx(changed, rel=1e-6),
        left=1,
        error=None,
        rounding=0.0,
    )
    assert rewind(model, history, 5) == expected


def test_buffers_can_stay(run: tuple[History, list[State]]) -> None:
    history, states = run
    model = normed()
    model.load_state_dict(states[20])
    report = rewind(model, history, 5, buffers=False)
    names = {p.name for p in history.parameters}
    assert same(copy_of(model), states[20] | {n: states[5][n] for n in names})
    assert (report.buffers, report.left) == (0, 3)


@pytest.mark.parametrize(
    ("include", "exclude"),
    [(["3.*"], []), ([], ["1.*"]), (["*.weight"], ["0.*"]), (["1.run*"], [])],
)
def test_globs_choose(run: tuple[History, list[State]], include: Any, exclude: Any) -> None:
    from fnmatch import fnmatchcase

    history, states = run
    model = normed()
    model.load_state_dict(states[20])
    report = rewind(model, history, 5, include=include, exclude=exclude)
    put_back = {
        n
        for n in states[5]
        if (not include or any(fnmatchcase(n, g) for g in include))
        and not any(fnmatchcase(n, g) for g in exclude)
    }
    assert same(copy_of(model), states[20] | {n: states[5][n] for n in put_back})
    assert report.left == len(states[5]) - len(put_back)


def test_a_run_of_tickets(run: tuple[History, list[State]]) -> None:
    """Pruned weights stay 0; what has no mask is put back whole."""
    history, states = run
    model = normed()
    model.load_state_dict(states[20])
    masks = {n: p.detach().abs() > p.detach().abs().median() for n, p in model.named_parameters()}
    masks = {n: m for n, m in masks.items() if n.endswith("weight")}
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    report = rewind(model, history, 3, mask=masks)
    pruned = {n: torch.where(m, states[3][n], torch.zeros(())) for n, m in masks.items()}
    assert same(copy_of(model), states[3] | pruned)
    assert report.masked == sum(int((~m).sum()) for m in masks.values()) > 0
    assert report.weights == history.parameters.size - report.masked


@settings(max_examples=20)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 99))
def test_any_mask_by_hand(run: tuple[History, list[State]], step: int, now: int, seed: int) -> None:
    history, states = run
    random = np.random.default_rng(seed)
    model = normed()
    model.load_state_dict(states[now])
    names = [n for n, _ in model.named_parameters() if random.random() < 0.7]
    masks = {n: torch.from_numpy(random.random(states[0][n].shape) < 0.5) for n in names}
    rewind(model, history, step, mask=masks)
    for name, tensor in model.state_dict().items():
        for place in np.ndindex(*tensor.shape):
            kept = name in masks and not bool(masks[name][place])
            assert tensor[place] == states[now if kept else step][name][place]


def test_masked_weights_of_a_wider_model_stay_to_the_bit(run: tuple[History, list[State]]) -> None:
    history, states = run
    model = normed().double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(1.0, p.numel() + 1, dtype=p.dtype).reciprocal().view(p.shape))
    before = copy_of(model)
    masks = {n: torch.arange(p.numel()).view(p.shape) % 2 > 0 for n, p in model.named_parameters()}
    report = rewind(model, history, 5, mask=masks)
    for name, mask in masks.items():
        expected = torch.where(mask, states[5][name].double(), before[name])
        assert torch.equal(model.get_parameter(name), expected)
    assert report.rounding == 0


def test_a_module_may_be_the_mask(run: tuple[History, list[State]]) -> None:
    history, states = run
    model, mask = normed(), normed()
    model.load_state_dict(states[20])
    for name, p in list(mask.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        delattr(mask.get_submodule(owner), leaf)
        mask.get_submodule(owner).register_buffer(leaf, torch.zeros(p.shape, dtype=torch.bool))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        delattr(mask[1], name)
    report = rewind(model, history, 3, mask=mask, buffers=False)
    assert report.weights == 0
    assert same(copy_of(model), states[20])


@pytest.mark.parametrize(
    "wrap",
    [
        functools.partial(torch.compile, backend="eager"),
        nn.DataParallel,
        AveragedModel,
    ],
    ids=["compile", "data parallel", "averaged"],
)
def test_wrapped_models(run: tuple[History, list[State]], wrap: Any) -> None:
    history, states = run
    plain = normed()
    wrapped = wrap(plain)
    inner = wrapped.module if wrap is AveragedModel else plain
    rewind(wrapped, history, 9)
    assert same(copy_of(inner), states[9])
    mask = {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in wrapped.named_parameters()}
    assert rewind(wrapped, history, 2, mask=mask).weights == 0


class Tied(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        if tied:
            self.last.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))


def record_tied(folder: Path) -> tuple[History, torch.Tensor]:
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = model.first.weight.detach().clone()
    with Recorder(model, folder / "run.zarr").attach(optimizer):
        for _ in range(10):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    return History(folder / "run.zarr"), first


def test_tied_parameters(tmp_path: Path) -> None:
    history, first = record_tied(tmp_path)
    for model in (Tied(), Tied(tied=False)):
        mask = {"last.weight": torch.tensor([[True, False], [True, True]])}
        for options in ({}, {"include": ["last.*"]}, {"mask": mask}):
            model.first.weight.data.fill_(9)
            model.last.weight.data.fill_(9)
            report = rewind(model, history, 0, **options)  # type: ignore[arg-type]
            expected = torch.where(mask["last.weight"], first, 9.0) if "mask" in options else first
            assert torch.equal(model.last.weight, expected)
            assert report.weights == (3 if "mask" in options else 4)
    masks = {"first.weight": ~mask["last.weight"], **mask}
    with refuses(ShapeError, "one mask", "'last.weight'"):
        rewind(model, history, 0, mask=masks)


def test_what_was_two_is_not_written_into_one(tmp_path: Path) -> None:
    table = ParameterTable.of(
        [(f"{n}.weight", (2, 2), "float32", "weight") for n in ("first", "last")]
    )
    with HistoryWriter.create(tmp_path / "run.zarr", table) as writer:
        writer.append([0], [0.0], np.float32([range(8)]))
    with refuses(ShapeError, "'first.weight' and 'last.weight' are tied"):
        rewind(Tied(), tmp_path / "run.zarr", 0)
    rewind(Tied(tied=False), tmp_path / "run.zarr", 0)


def test_a_lossy_history_says_its_bound(tmp_path: Path) -> None:
    model = normed()
    history, states = record(tmp_path, model, preset="bounded", error=1e-3)
    report = rewind(model, history, 5)
    assert report.error == 1e-3
    gaps = [float((t - states[5][n]).abs().max()) for n, t in model.state_dict().items()]
    assert max(gaps) <= 1e-3


def test_a_narrower_model_is_rounded_and_it_is_said(run: tuple[History, list[State]]) -> None:
    history, states = run
    model = normed(torch.bfloat16)
    report = rewind(model, history, 5)
    rounded = {n: t.to(model.state_dict()[n].dtype) for n, t in states[5].items()}
    assert same(copy_of(model), rounded)
    errors = [float((rounded[n].double() - t.double()).abs().max()) for n, t in states[5].items()]
    assert report.rounding == pytest.approx(max(errors))


def test_steps_that_diverged_come_back_too(tmp_path: Path) -> None:
    recorded = wandering(3, 4)
    recorded.weights[2] = [np.nan, np.inf, 1]
    path = recorded.write(tmp_path / "h.zarr")
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(3))
    step = int(History(path).steps[2])
    report = rewind(model, path, step)
    assert torch.equal(model.w.isnan(), torch.tensor([True, False, False]))
    assert np.isnan(report.changed)


def test_of_a_sharded_parameter_each_rank_writes_its_own(tmp_path: Path) -> None:
    """This is the last of three ranks; torch keeps what it knows of a rank, so it is no other."""
    table = ParameterTable.of([("w", (5, 3), "float32", "weight")])
    with HistoryWriter.create(tmp_path / "run.zarr", table) as writer:
        writer.append([0], [0.0], np.float32([range(15)]))
    whole = torch.arange(15.0).view(5, 3)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=2, world_size=3)
    try:
        mesh = DeviceMesh("cpu", [0, 1, 2])
        zeros = distribute_tensor(torch.zeros(5, 3), mesh, [Shard(0)], src_data_rank=None)
        model = nn.Module()
        model.w = nn.Parameter(zeros)
        rewind(model, tmp_path / "run.zarr", 0)
        part = slice(4, 5)
        assert torch.equal(model.w.to_local(), whole[part])
        model.w.to_local().detach().zero_()
        rewind(model, tmp_path / "run.zarr", 0, mask={"w": whole % 2 == 1})
        assert torch.equal(model.w.to_local(), (whole * (whole % 2 == 1))[part])
    finally:
        torch.distributed.destroy_process_group()


# ---- what is refused, and changes nothing


def refused(
    history: Any, model: nn.Module, kind: type[Exception], *words: object, **how: Any
) -> None:
    before = copy_of(model)
    with refuses(kind, *words):
        rewind(model, history, how.pop("step", 5), **how)
    assert same(copy_of(model), before)


def test_steps_and_globs_that_are_not_there(run: tuple[History, list[State]]) -> None:
    history = run[0]
    refused(history, normed(), StepNotRecordedError, "step 21", "nearest are 20", step=21)
    refused(history, normed(), UsageError, "leave nothing", include=["x"])
    refused(history, normed(), UsageError, "leave nothing", include=["*running*"], buffers=False)
    with refuses(UsageError, "Module", "dict"):
        rewind({}, history, 5)  # type: ignore[arg-type]
    refused("/nowhere.zarr", normed(), InputNotFoundError, "/nowhere.zarr")


def test_models_of_other_parameters(run: tuple[History, list[State]]) -> None:
    model = normed()
    model[3] = nn.Linear(2, 3)
    refused(run[0], model, ShapeError, "'3.weight'", "[3, 2]", "[2, 2]", "the model")
    refused(run[0], normed()[:3], ShapeError, "no '3.weight'")
    model[3] = nn.Linear(2, 2, device="meta")
    with refuses(ShapeError, "'3.weight'", "meta"):
        rewind(model, run[0], 5)
    model[3] = nn.LazyLinear(2)
    with refuses(UsageError, "'3.weight' is lazy"):
        rewind(model, run[0], 5)
    model[3] = nn.Linear(2, 2)
    model[3].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int64), requires_grad=False)
    refused(run[0], model, ShapeError, "'3.weight'", "int64")


MASKS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "name": ({"4.weight": torch.ones(2, 2).bool()}, ("'4.weight'", "none of the")),
    "shape": ({"3.weight": torch.ones(4).bool()}, ("'3.weight'", "[4]", "[2, 2]")),
    "dtype": ({"3.weight": torch.ones(2, 2)}, ("'3.weight'", "float32", "torch.bool")),
    "kind": ({"3.weight": [[True, True], [True, True]]}, ("'3.weight'", "list")),
    "sparse": ({"3.weight": torch.ones(2, 2).bool().to_sparse()}, ("'3.weight'",)),
    "buffer": ({"1.running_mean": torch.ones(2).bool()}, ("'1.running_mean'", "none of the")),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_that_do_not_fit(run: tuple[History, list[State]], case: str) -> None:
    mask, words = MASKS[case]
    refused(run[0], normed(), ShapeError, *words, mask=mask, buffers=case != "buffer")


def test_masks_that_are_none(run: tuple[History, list[State]]) -> None:
    refused(run[0], normed(), UsageError, "mapping", "list", mask=[1])
    refused(run[0], normed(), UsageError, "mapping", "dict", mask={0: torch.ones(1).bool()})


def test_a_damaged_history_changes_nothing(tmp_path: Path) -> None:
    history, _ = record(tmp_path, normed())
    for chunk in (tmp_path / "run.zarr" / "buffers" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"garbage")
    refused(history, normed(), FormatError, "damaged")


# ---- checkpoints


def load_torch(path: Path) -> Any:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_all_else_in_a_checkpoint_stays(
    run: tuple[History, list[State]], prefix: str, tmp_path: Path
) -> None:
    history, states = run
    state = {prefix + n: t for n, t in states[20].items()} | {f"{prefix}extra": torch.ones(2)}
    torch.save({"epoch": 3, "model": state, "optimizer": {"lr": [0.1]}}, tmp_path / "in.pt")
    report = rewind_checkpoint(history.path, 4, tmp_path / "in.pt", tmp_path / "out.pt")
    found = load_torch(tmp_path / "out.pt")
    expected = {prefix + n: t for n, t in states[4].items()} | {f"{prefix}extra": torch.ones(2)}
    assert same(found["model"], expected)
    assert (found["epoch"], found["optimizer"]) == (3, {"lr": [0.1]})
    assert (report.left, report.buffers) == (1, 5)
    assert same(load_torch(tmp_path / "in.pt")["model"], state)


def test_safetensors(run: tuple[History, list[State]], tmp_path: Path) -> None:
    history, states = run
    plain = {n: t.contiguous() for n, t in states[20].items()}
    save_file(plain, tmp_path / "in.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out.safetensors"
    rewind_checkpoint(history, 4, tmp_path / "in.safetensors", out)
    assert same(load_file(out), states[4])
    with refuses(OutputExistsError, out):
        rewind_checkpoint(history, 4, tmp_path / "in.safetensors", out)
    rewind_checkpoint(history, 6, out, out, overwrite=True)
    assert same(load_file(out), states[6])


@pytest.mark.parametrize("inside", ["", "zarr.json", "new.pt"])
def test_no_checkpoint_is_written_over_its_history(inside: str, tmp_path: Path) -> None:
    history, states = record(tmp_path, normed())
    torch.save(states[20], tmp_path / "in.pt")
    with refuses(OutputExistsError, "input"):
        rewind_checkpoint(
            history, 4, tmp_path / "in.pt", Path(history.path) / inside, overwrite=True
        )
    assert len(History(history.path)) == len(history)


def test_every_copy_of_a_tied_tensor_is_written(tmp_path: Path) -> None:
    """A safetensors file has one under each name; a jump writes both too."""
    history, first = record_tied(tmp_path)
    now = torch.from_numpy(history.snapshot(10)).view(2, 2)
    save_file({"first.weight": now, "last.weight": now.clone()}, tmp_path / "in.safetensors")
    rewind_checkpoint(history, 0, tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found["first.weight"], first)
    assert torch.equal(found["last.weight"], first)
    out = tmp_path / "jumped.safetensors"
    report = jump_checkpoint(history, 10, LinearFit(), tmp_path / "in.safetensors", out)
    found = load_file(out)
    assert not torch.equal(found["first.weight"], now)
    assert torch.equal(found["first.weight"], found["last.weight"])
    assert report.left == 0


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def strange(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {
        "sparse": torch.ones(shape).to_sparse(),
        "meta": torch.ones(shape, device="meta"),
        "expanded": torch.ones(1).expand(shape),
        "integers": torch.ones(shape, dtype=torch.int32),
        "complex": torch.ones(shape, dtype=torch.complex64),
    }


@pytest.mark.parametrize("case", strange((1,)))
def test_checkpoints_of_strange_tensors(
    run: tuple[History, list[State]], case: str, tmp_path: Path
) -> None:
    history, states = run
    torch.save(states[20] | {"3.weight": strange((2, 2))[case]}, tmp_path / "in.pt")
    with refuses(ShapeError, "'3.weight'", tmp_path / "in.pt"):
        rewind_checkpoint(history, 4, tmp_path / "in.pt", tmp_path / "out.pt")
    with refuses(ShapeError, "'3.weight'", tmp_path / "in.pt"):
        jump_checkpoint(history, 10, LinearFit(), tmp_path / "in.pt", tmp_path / "out.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


# ---- the command


def command(folder: Path, *words: object, **files: object) -> int:
    line = ["rewind", "--history", str(folder / "run.zarr"), "--step", "4", *map(str, words)]
    return main([*line, "-o", str(folder / "out.pt")])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history, states = record(tmp_path, normed())
    torch.save({"model": states[20], "step": 20}, tmp_path / "in.pt")
    torch.save({"3.weight": torch.tensor([[True, False]] * 2)}, tmp_path / "mask.pt")
    save_file({"3.weight": torch.tensor([[True, False]] * 2)}, tmp_path / "mask.safetensors")
    source = ("--checkpoint", tmp_path / "in.pt")
    assert command(tmp_path, *source) == 0
    printed = capsys.readouterr().out
    assert f"{history.parameters.size:,} weights and 5 buffers are those of step 4" in printed
    assert "exact" in printed
    assert same(load_torch(tmp_path / "out.pt")["model"], states[4])
    for mask in ("mask.pt", "mask.safetensors"):
        options = ("--mask", tmp_path / mask, "--no-buffers", "--exclude", "0.*", "--overwrite")
        assert command(tmp_path, *source, *options) == 0
        assert "2 stay as they were for the mask\n5 tensors" in capsys.readouterr().out
        found = load_torch(tmp_path / "out.pt")["model"]
        assert torch.equal(found["3.weight"][:, 0], states[4]["3.weight"][:, 0])
        assert torch.equal(found["3.weight"][:, 1], states[20]["3.weight"][:, 1])
        assert torch.equal(found["0.weight"], states[20]["0.weight"])


def test_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, states = record(tmp_path, normed(), schedule="every:3")
    torch.save(states[20], tmp_path / "in.pt")

    def fails(code: int, *words: object, named: tuple[str, ...]) -> None:
        assert command(tmp_path, *words) == code
        said = capsys.readouterr().err
        assert said.startswith("weightcast: ")
        assert said.count("\n") == 1
        assert all(word in said for word in named)
        assert not (tmp_path / "out.pt").exists()

    source = ("--checkpoint", tmp_path / "in.pt")
    fails(2, named=("--checkpoint", "weightcast export", "--step 4"))
    fails(1, *source, named=("step 4 is not recorded", "3 and 6"))
    marker = tmp_path / "executed"
    hostile = {
        "code.pt": pickle.dumps({"w": Hostile(marker)}, protocol=2),
        "text.pt": b"text",
        "text.safetensors": b"text",
    }
    for name, data in hostile.items():
        (tmp_path / name).write_bytes(data)
        fails(1, "--step", 3, "--checkpoint", tmp_path / name, named=(name,))
        fails(1, "--step", 3, *source, "--mask", tmp_path / name, named=(name,))
    assert not marker.exists()
    torch.save([1, 2], tmp_path / "mask.pt")
    fails(1, "--step", 3, *source, "--mask", tmp_path / "mask.pt", named=("mask", "list"))
    torch.save({"3.weight": 1}, tmp_path / "mask.pt")
    fails(1, "--step", 3, *source, "--mask", tmp_path / "mask.pt", named=("'3.weight'", "int"))
    fails(2, "--step", 3, *source, "--mask", tmp_path / "none.pt", named=("none.pt",))


def test_the_command_says_a_bound_and_rounding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, states = record(tmp_path, normed(), preset="bounded", error=1e-3)
    torch.save({n: t.bfloat16() for n, t in states[20].items()}, tmp_path / "in.pt")
    assert command(tmp_path, "--checkpoint", tmp_path / "in.pt") == 0
    said = capsys.readouterr()
    assert "within 0.001 of what was recorded" in said.out
    assert "narrower dtypes" in said.err


def test_a_path_of_one_step(tmp_path: Path) -> None:
    path = Recorded(vector(2), [0, 4], wandering(2, 2).weights).write(tmp_path / "h.zarr")
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(2))
    refused(path, model, StepNotRecordedError, "step 3", "0 and 4", step=3)
