"""Export and import: what a history gives back, and what checkpoints make a history."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
import string
from collections.abc import Callable
from itertools import pairwise
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
from store_reference import Recorded, refuses, same_bits, vector, wandering
from torch import nn

from weightcast.cli.main import main
from weightcast.recorder import (
    Recorder,
    export,
    import_checkpoints,
    plan_import,
    state_dict,
)
from weightcast.recorder.numbering import number_in_name
from weightcast.store import (
    Dataset,
    FormatError,
    History,
    InputNotFoundError,
    OutputExistsError,
    ParameterTable,
    RecordingError,
    ShapeError,
    StepNotRecordedError,
    UsageError,
    WeightcastError,
)

State = dict[str, torch.Tensor]


class Mixed(nn.Module):
    """Parameters of three dtypes, and buffers of four."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4).to(torch.bfloat16)
        self.second = nn.Linear(4, 4).to(torch.float16)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("scale", torch.tensor(0.1, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(2**52 + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x.to(torch.bfloat16)).relu()
        hidden = self.norm(self.second(hidden.to(torch.float16)).float()) * self.mask
        return self.last(hidden) * self.scale.float()


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Linear(4, 2))


def doubled() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4, dtype=torch.float64), nn.Tanh(), nn.Linear(4, 2).double())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x).relu())


MODELS: list[Callable[[], nn.Module]] = [Mixed, normed, doubled]


def train(
    make: Callable[[], nn.Module], steps: int, save: Callable[[int, nn.Module, Any], None]
) -> nn.Module:
    """Train a model, and let `save` see it before each step and after the last."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    kind = next(model.parameters()).dtype
    for step in range(steps):
        save(step, model, optimizer)
        optimizer.zero_grad()
        x = torch.randn(8, 3, dtype=torch.float64 if kind == torch.float64 else torch.float32)
        model(x).square().mean().backward()
        optimizer.step()
    save(steps, model, optimizer)
    return model


def record(
    make: Callable[[], nn.Module], folder: Path, steps: int = 6
) -> tuple[History, nn.Module]:
    """Record a run, and save a checkpoint at each of its steps."""
    recorders: list[Recorder] = []
    (folder / "ckpt").mkdir()

    def save(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if not recorders:
            recorders.append(Recorder(model, folder / "run.zarr"))
        else:
            recorders[0]()
        torch.save(model.state_dict(), folder / f"ckpt/model_{step}.pt")

    model = train(make, steps, save)
    recorders[0].close()
    return History(folder / "run.zarr"), model


def load(path: Path) -> State:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit."""
    flat = [t.detach().contiguous().reshape(-1) for t in (a, b)]
    bits = [t.view(torch.uint8) if t.numel() else t for t in flat]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def same_states(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def save_states(folder: Path, values: dict[int, float] | None = None) -> Path:
    """Checkpoints of one weight vector, by step."""
    folder.mkdir(parents=True, exist_ok=True)
    for step, value in (values or {0: 0.0, 10: 1.0, 20: 2.0}).items():
        torch.save({"w": torch.full((2,), value)}, folder / f"model_{step}.pt")
    return folder


# ---- export


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_an_export_is_the_model_at_that_step(
    make: Callable[[], nn.Module], name: str, tmp_path: Path
) -> None:
    history, model = record(make, tmp_path)
    for step in (0, 3, 6):
        report = export(history, step, tmp_path / name, overwrite=True)
        found = load(tmp_path / name)
        assert same_states(found, load(tmp_path / f"ckpt/model_{step}.pt"))
        assert (report.step, report.tensors) == (step, len(found))
        assert report.values == sum(t.numel() for t in found.values())
        assert (report.error, report.bytes) == (None, (tmp_path / name).stat().st_size)
    fresh = make()
    fresh.load_state_dict(found, strict=True)
    x = torch.randn(5, 3, dtype=next(model.parameters()).dtype)
    assert same(fresh.eval()(x), model.eval()(x))


def test_the_last_step_has_a_name(tmp_path: Path) -> None:
    history = History(wandering(2, 4).write(tmp_path / "h.zarr"))
    assert same_states(state_dict(history, "last"), state_dict(history, 3))
    assert not same_states(state_dict(history, "last"), state_dict(history, 2))
    with refuses(UsageError, "'first'", "'last'"):
        state_dict(history, "first")
    empty = History(
        Recorded(vector(2), [], np.empty((0, 2), np.float32)).write(tmp_path / "e.zarr")
    )
    with refuses(StepNotRecordedError, "no steps"):
        state_dict(empty, "last")


def test_a_safetensors_file_says_where_it_is_from(tmp_path: Path) -> None:
    history = History(wandering(2, 4).write(tmp_path / "h.zarr"))
    export(history, 3, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        notes = file.metadata()
    assert notes["step"] == "3"
    assert notes["source"] == str(tmp_path / "h.zarr")
    assert notes["format"] == "pt"
    assert "." in notes["weightcast"]


def test_globs_choose_what_is_exported(tmp_path: Path) -> None:
    history, _ = record(normed, tmp_path, steps=1)
    found = state_dict(history, 1, include=["1.*", "3.*"], exclude=["*.bias"])
    assert list(found) == [
        "1.weight",
        "3.weight",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ]
    with refuses(UsageError, "['nothing']"):
        state_dict(history, 1, include=["nothing"])


def test_a_file_of_torch_save_holds_no_more_than_its_tensors(tmp_path: Path) -> None:
    """A tensor that is a view is saved with all that it is a view of."""
    history = History(
        Recorded(
            ParameterTable.of(
                [("a", (50_000,), "float32", "weight"), ("b", (1,), "float32", "bias")]
            ),
            [0],
            np.ones((1, 50_001), np.float32),
        ).write(tmp_path / "h.zarr")
    )
    export(history, 0, tmp_path / "w.pt", include=["b"])
    assert (tmp_path / "w.pt").stat().st_size < 10_000


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_tied_parameter_is_exported_under_all_its_names(name: str, tmp_path: Path) -> None:
    history, model = record(Tied, tmp_path)
    assert [p.name for p in history.parameters] == ["embed.weight"]
    export(history, 6, tmp_path / name)
    fresh = Tied()
    fresh.load_state_dict(load(tmp_path / name), strict=True)
    assert same_states(fresh.state_dict(), model.state_dict())
    assert fresh.head.weight is fresh.embed.weight


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    history = History(wandering(2, 4).write(tmp_path / "h.zarr"))
    with refuses(StepNotRecordedError, "step 9", "3"):
        export(history, 9, tmp_path / "new" / "w.pt")
    for name in ("w", "w.npz", "w.safetensor"):
        with refuses(UsageError, ".safetensors", tmp_path / name):
            export(history, 3, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["h.zarr"]
    (tmp_path / "w.pt").write_text("mine")
    with refuses(OutputExistsError, "--overwrite"):
        export(history, 3, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_text() == "mine"


def test_ties_in_a_header_add_names_and_change_none(tmp_path: Path) -> None:
    table = ParameterTable.of([(name, (1,), "float32", "weight") for name in "ab"])
    recorded = Recorded(table, [0], np.float32([[1, 2]]))
    for ties, expected in (
        ({"b": "a", "c": "a", "d": "none"}, {"a": 1, "b": 2, "c": 1}),
        ({}, {"a": 1, "b": 2}),
    ):
        path = recorded.write(tmp_path / f"{len(ties)}.zarr", ties=ties)
        found = state_dict(History(path), 0)
        assert {name: t.item() for name, t in found.items()} == expected


@pytest.mark.parametrize("dtype", ["__class__", "qint8", "Tensor", "no"])
def test_a_dtype_that_is_none_is_damage(dtype: str, tmp_path: Path) -> None:
    table = ParameterTable.of([("w", (2,), dtype, "weight")])
    history = History(Recorded(table, [0], np.ones((1, 2), np.float32)).write(tmp_path / "h.zarr"))
    with refuses(FormatError, "damaged", dtype):
        state_dict(history, 0)


def test_a_bounded_history_says_so(tmp_path: Path) -> None:
    plan = plan_import([save_states(tmp_path / "c")])
    history = import_checkpoints(plan, tmp_path / "h.zarr", preset="bounded", error=1e-3)
    report = export(history, 20, tmp_path / "w.pt")
    assert report.error == 1e-3
    assert load(tmp_path / "w.pt")["w"].numpy() == pytest.approx([2.0, 2.0], abs=1e-3)
    with refuses(UsageError, "bounded"):
        import_checkpoints(plan, tmp_path / "other.zarr", preset="bounded")
    assert not (tmp_path / "other.zarr").exists()


# ---- import


@pytest.mark.parametrize("make", [*MODELS, Tied])
def test_an_import_is_the_history_that_was_not_recorded(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    recorded, _ = record(make, tmp_path)
    plan = plan_import([tmp_path / "ckpt"], buffers=["scale"])  # as nothing else would tell
    imported = import_checkpoints(plan, tmp_path / "imported.zarr")
    assert imported.parameters == recorded.parameters
    assert imported.buffers == recorded.buffers
    assert imported.steps.tolist() == recorded.steps.tolist()
    assert imported.header.schedule == recorded.header.schedule == "every:1"
    for step in range(7):
        assert same_bits(imported.snapshot(step), recorded.snapshot(step))
        states = [h.state(step) for h in (imported, recorded)]
        assert all(same_bits(states[0][p.name], states[1][p.name]) for p in imported.buffers)


@pytest.mark.parametrize("make", [*MODELS, Tied])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_an_export_of_an_import_is_the_checkpoint(
    make: Callable[[], nn.Module], name: str, tmp_path: Path
) -> None:
    record(make, tmp_path)
    history = import_checkpoints(plan_import([tmp_path / "ckpt"]), tmp_path / "i.zarr")
    for step in (0, 3, 6):
        export(history, step, tmp_path / name, overwrite=True)
        assert same_states(load(tmp_path / name), load(tmp_path / f"ckpt/model_{step}.pt"))
    make().load_state_dict(load(tmp_path / name), strict=True)


def test_a_tie_comes_back_as_one(tmp_path: Path) -> None:
    record(Tied, tmp_path)
    plan = plan_import([tmp_path / "ckpt"])
    assert plan.ties == {"head.weight": "embed.weight"}
    assert any("tied" in note for note in plan.notes)
    found = state_dict(import_checkpoints(plan, tmp_path / "i.zarr"), 6)
    assert found["head.weight"] is found["embed.weight"]
    alone = state_dict(History(tmp_path / "i.zarr"), 6, include=["head.*"])
    assert same_states(alone, {"head.weight": found["embed.weight"]})


def test_empty_tensors_are_not_tied(tmp_path: Path) -> None:
    state = {"w": torch.ones(2), "a": torch.ones(0), "b": torch.ones(0)}
    torch.save(state, tmp_path / "m_0.pt", _use_new_zipfile_serialization=False)
    plan = plan_import([tmp_path])
    assert plan.ties == {}
    assert [p.name for p in plan.parameters] == ["w", "a", "b"]


def test_empty_buffers_come_back(tmp_path: Path) -> None:
    state = {"w": torch.ones(2), "n": torch.ones((0, 3), dtype=torch.int64)}
    torch.save(state, tmp_path / "m_0.pt")
    history = import_checkpoints(plan_import([tmp_path]), tmp_path / "h.zarr")
    assert same_states(state_dict(history, 0), state)


def test_a_tie_in_some_checkpoints_only_is_none(tmp_path: Path) -> None:
    w = torch.ones(2)
    torch.save({"a": w, "b": w}, tmp_path / "m_1.pt")
    save_file({"a": torch.zeros(2), "b": torch.ones(2)}, tmp_path / "m_2.safetensors")
    plan = plan_import([tmp_path])
    assert plan.ties == {}
    history = import_checkpoints(plan, tmp_path / "i.zarr")
    assert history["b"].tolist() == [[1, 1], [1, 1]]
    assert history["a"].tolist() == [[1, 1], [0, 0]]


DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.uint8, torch.bool),
]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)), min_size=1
    ),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_whatever_is_imported_is_exported(
    kinds: list[tuple[torch.dtype, list[int]]], steps: list[int], seed: int, as_safetensors: bool
) -> None:
    kinds = [(torch.float32, [2]), *kinds]
    random_bits = torch.Generator().manual_seed(seed)

    def tensor(dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
        if not dtype.is_floating_point:
            return torch.randint(0, 2, shape, generator=random_bits).to(dtype)
        values = torch.randn(shape, generator=random_bits, dtype=torch.float64).to(dtype)
        return torch.where(values > 1.5, values * math.inf, values)

    suffix, save = (".safetensors", save_file) if as_safetensors else (".pt", torch.save)
    with TemporaryDirectory() as folder:
        for step in steps:
            state = {f"t{i}": tensor(*kind) for i, kind in enumerate(kinds)}
            save(state, Path(folder) / f"m_{step}{suffix}")
        history = import_checkpoints(plan_import([folder]), Path(folder) / "h.zarr")
        assert history.steps.tolist() == sorted(steps)
        for step in steps:
            assert same_states(state_dict(history, step), load(Path(folder) / f"m_{step}{suffix}"))


def test_rows_are_written_in_blocks_that_fit_the_memory(tmp_path: Path) -> None:
    folder = save_states(tmp_path / "c", {step: float(step) for step in range(7)})
    for memory, block in ((1, 1), (8 * 3, 3), (8 * 6, 4), (1 << 20, 7)):
        history = import_checkpoints(
            plan_import([folder]), tmp_path / "h.zarr", memory=memory, overwrite=True
        )
        assert history.weights.chunks[1] == block
        assert history["w"].tolist() == [[step, step] for step in range(7)]


def test_dtypes_that_differ_keep_the_widest(tmp_path: Path) -> None:
    for step, dtype in enumerate([torch.bfloat16, torch.float16, torch.bfloat16]):
        state = {"w": torch.tensor([1 / 3]).to(dtype), "n": torch.tensor(step, dtype=torch.int32)}
        torch.save(state | ({"n": torch.tensor(2.5)} if step == 2 else {}), tmp_path / f"{step}.pt")
    plan = plan_import([tmp_path])
    assert plan.parameters["w"].dtype == "float32"
    assert plan.buffers["n"].dtype == "float64"
    assert any("'w'" in note and "float32" in note for note in plan.notes)
    history = import_checkpoints(plan, tmp_path / "h.zarr")
    for step in range(3):
        stored = load(tmp_path / f"{step}.pt")
        assert torch.equal(state_dict(history, step)["w"], stored["w"].float())
        assert torch.equal(state_dict(history, step)["n"], stored["n"].double())


def test_buffers_are_told_by_name_dtype_and_glob(tmp_path: Path) -> None:
    state = normed().state_dict() | {"rotary.freq": torch.ones(3), "ids": torch.arange(4)}
    torch.save(state, tmp_path / "m_0.pt")
    plan = plan_import([tmp_path], buffers=["rotary.*"])
    running = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert [p.name for p in plan.buffers] == [*running, "rotary.freq", "ids"]
    assert plan.parameters["1.bias"].kind == plan.parameters["2.weight"].kind == "norm"
    assert [plan.parameters[f"3.{leaf}"].kind for leaf in ("weight", "bias")] == ["weight", "bias"]
    assert plan_import([tmp_path]).parameters["rotary.freq"].kind == "weight"
    with refuses(FormatError, "buffers"):
        plan_import([tmp_path], buffers=["*"])


def test_names_of_wrapped_models_lose_their_prefix(tmp_path: Path) -> None:
    w = torch.ones(2)
    torch.save({"w": w, "b": w + 1}, tmp_path / "m_0.pt")
    torch.save({"module.w": w, "module.b": w + 1}, tmp_path / "m_1.pt")
    torch.save({"_orig_mod.module.w": w, "_orig_mod.module.b": w + 1}, tmp_path / "m_2.pt")
    averaged = {"n_averaged": torch.tensor(3), "module.w": w, "module.b": w + 1}
    torch.save({"model": averaged}, tmp_path / "m_3.pt")
    plan = plan_import([tmp_path])
    assert [p.name for p in plan.parameters] == ["w", "b"]
    assert len(plan.buffers) == 0
    assert any("'_orig_mod.module.'" in note for note in plan.notes)
    history = import_checkpoints(plan, tmp_path / "h.zarr")
    assert history["b"].tolist() == [[2, 2]] * 4


def test_globs_choose_what_is_imported(tmp_path: Path) -> None:
    """Also what would not fit otherwise: another shape, another name."""
    torch.save({"w": torch.ones(2), "head": torch.ones(3)}, tmp_path / "m_0.pt")
    torch.save({"w": torch.ones(2), "head": torch.ones(5), "x": torch.ones(1)}, tmp_path / "m_1.pt")
    assert [p.name for p in plan_import([tmp_path], include=["w"]).parameters] == ["w"]
    assert [p.name for p in plan_import([tmp_path], exclude=["head", "x"]).parameters] == ["w"]
    with refuses(UsageError, "m_0.pt", "['nothing']"):
        plan_import([tmp_path], include=["nothing"])


def test_the_state_dict_is_found_by_its_key(tmp_path: Path) -> None:
    for step in range(2):
        document = {"model": {"w": torch.ones(2)}, "ema": {"w": torch.full((2,), 5.0 + step)}}
        torch.save(document, tmp_path / f"m_{step}.pt")
    history = import_checkpoints(plan_import([tmp_path], key="ema"), tmp_path / "h.zarr")
    assert history["w"].tolist() == [[5, 5], [6, 6]]
    with refuses(UsageError, "'net'", "m_0.pt"):
        plan_import([tmp_path], key="net")


# ---- which files


def hugging_face(folder: Path, step: int, *, shards: bool, torch_files: bool = False) -> State:
    """A checkpoint folder as Transformers writes it; the tensors of it."""
    folder.mkdir(parents=True)
    state = {"a.weight": torch.full((2, 2), float(step)), "b.weight": torch.full((3,), step + 0.5)}
    save = torch.save if torch_files else save_file
    stem, suffix = ("pytorch_model", "bin") if torch_files else ("model", "safetensors")
    if shards:
        names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
        for shard, name in zip(names, state, strict=True):
            save({name: state[name]}, folder / shard)
        weight_map = dict(zip(state, names, strict=True))
        index = {"metadata": {"total_size": 28}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    else:
        save(state, folder / f"{stem}.{suffix}")
    torch.save({"state": {}}, folder / "optimizer.pt")
    torch.save({"a": 1}, folder / "training_args.bin")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "epoch": 0.5}))
    return state


@pytest.mark.parametrize("step_from", ["name", "metadata"])
def test_folders_of_transformers(step_from: str, tmp_path: Path) -> None:
    states = {
        step: hugging_face(tmp_path / f"out/checkpoint-{step}", step, **how)
        for step, how in (
            (1000, {"shards": True}),
            (500, {"shards": False}),
            (1500, {"shards": True, "torch_files": True}),
            (2000, {"shards": False, "torch_files": True}),
        )
    }
    save_file(states[2000], tmp_path / "out/model.safetensors")  # the finished model
    plan = plan_import([tmp_path / "out"], step_from=step_from)
    assert plan.steps == [500, 1000, 1500, 2000]
    assert any("out/model.safetensors" in note for note in plan.notes)
    history = import_checkpoints(plan, tmp_path / "h.zarr")
    for step, state in states.items():
        assert same_states(state_dict(history, step), state)
    one = plan_import([tmp_path / "out/checkpoint-1000"], step_from=step_from)
    assert (one.steps, one.parameters) == ([1000], plan.parameters)
    given = [tmp_path / "out/checkpoint-500/model.safetensors", tmp_path / "out/checkpoint-1000"]
    assert plan_import([*given, *given], step_from=step_from).steps == [500, 1000]


def test_checkpoints_of_lightning(tmp_path: Path) -> None:
    for epoch, step in ((0, 40), (1, 80), (2, 120)):
        document = {
            "epoch": epoch,
            "global_step": step,
            "state_dict": {"net.weight": torch.full((2,), float(step))},
            "optimizer_states": [{"state": {}}],
        }
        torch.save(document, tmp_path / f"epoch={epoch}-step={step}.ckpt")
    for how in ({}, {"step_from": "metadata"}):
        assert plan_import([tmp_path], **how).steps == [40, 80, 120]
    for how in ({}, {"step_from": "metadata"}):
        assert plan_import([tmp_path], steps_per_epoch=10, **how).steps == [0, 10, 20]
    torch.save(document, tmp_path / "last.ckpt")
    with refuses(UsageError, "last.ckpt", "--step-pattern", "--step-from metadata"):
        plan_import([tmp_path])
    with refuses(UsageError, "step 120", "last.ckpt", "epoch=2-step=120.ckpt"):
        plan_import([tmp_path], step_from="metadata")


def test_old_files_of_torch_save_are_read_too(tmp_path: Path) -> None:
    for step in range(3):
        state = {"w": torch.full((2,), float(step))}
        torch.save(state, tmp_path / f"{step}.pth", _use_new_zipfile_serialization=False)
    history = import_checkpoints(plan_import([tmp_path]), tmp_path / "h.zarr")
    assert history["w"].tolist() == [[0, 0], [1, 1], [2, 2]]


def test_paths_without_checkpoints(tmp_path: Path) -> None:
    with refuses(InputNotFoundError, tmp_path / "no"):
        plan_import([tmp_path / "no"])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / ".hidden.pt").write_text("")
    with refuses(InputNotFoundError, tmp_path, ".safetensors"):
        plan_import([tmp_path])
    with refuses(InputNotFoundError, "no checkpoints"):
        plan_import([])
    with refuses(UsageError, "list"):
        plan_import(str(tmp_path))  # type: ignore[arg-type]


def test_a_shard_alone_is_no_checkpoint(tmp_path: Path) -> None:
    hugging_face(tmp_path / "checkpoint-5", 5, shards=True)
    shard = tmp_path / "checkpoint-5/model-00001-of-00002.safetensors"
    with refuses(UsageError, shard, "folder"):
        plan_import([shard])
    (tmp_path / "checkpoint-5/model.safetensors.index.json").unlink()
    with refuses(UsageError, shard, ".index.json"):
        plan_import([tmp_path / "checkpoint-5"])


# ---- which step


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("model_1000", 1000),
        ("checkpoint-500", 500),
        ("ckpt.7", 7),
        ("0003", 3),
        ("epoch=3-step=4000", 4000),
        ("epoch=3-step=4000-v1", 4000),
        ("step_500_epoch_2", 500),
        ("Steps-12", 12),
        ("resnet50_iter300", 300),
        ("pythia-70m-step1000", 1000),
        ("gpt2-125m-200", 200),
        ("epoch=03-val_loss=0.25", 3),
        ("step=10k", None),
        ("model-10k", None),
        ("model-1e5", None),
        ("acc0.95", None),
        ("llama-7b", None),
        ("last", None),
        ("", None),
    ],
)
def test_the_number_in_a_name(name: str, step: int | None) -> None:
    assert number_in_name(name) == step


def reference_number(name: str) -> int | None:
    """Every run of digits, one character after the other, and what stands around it."""
    runs, start = [], None
    for i, character in enumerate(name + " "):
        if character in string.digits:
            start = i if start is None else start
        elif start is not None:
            runs.append((start, i))
            start = None

    def is_whole(low: int, high: int) -> bool:
        before, after = name[max(low - 2, 0) : low], name[high : high + 2].ljust(2)
        joined = len(before) == 2 and before[0] in string.digits and before[1] in ".eE"
        goes_on = after[0] in ".eE" and after[1] in string.digits
        unit = after[0] in "kKmMbB" and after[1] not in string.ascii_letters
        return not (joined or goes_on or unit)

    for low, high in reversed(runs):
        words = [name[:low], name[: low - 1] if name[low - 1 : low] in tuple(" =_.-") else ""]
        if any(w.lower().endswith(("step", "steps")) for w in words):
            return int(name[low:high]) if is_whole(low, high) else None
    whole = [int(name[low:high]) for low, high in runs if is_whole(low, high)]
    return whole[-1] if whole else None


PIECES = st.sampled_from(
    ["step", "Step", "steps", "epoch", "k", "m", "e", "x", *"=_.- ", "12", "3"]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_the_number_in_any_name(name: str) -> None:
    assert number_in_name(name) == reference_number(name)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 2**62), min_size=1, max_size=6, unique=True),
    st.sampled_from(["model_{}.pt", "{}.pt", "epoch=1-step={}-v2.ckpt", "v3_iter{}.bin"]),
    st.randoms(use_true_random=False),
)
def test_steps_rise_whatever_the_order_of_the_files(
    steps: list[int], form: str, shuffled: random.Random
) -> None:
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / form.format(step) for step in steps]
        for path, step in zip(paths, steps, strict=True):
            torch.save({"w": torch.tensor([step % 1000 / 8])}, path)
        shuffled.shuffle(paths)
        plan = plan_import(paths)
        assert plan.steps == sorted(steps)
        assert all(a < b for a, b in pairwise(plan.steps))
        assert [s.path for s in plan.sources] == [
            Path(folder) / form.format(s) for s in sorted(steps)
        ]
        history = import_checkpoints(plan, Path(folder) / "h.zarr")
        assert history["w"].ravel().tolist() == [step % 1000 / 8 for step in sorted(steps)]


def test_a_step_in_two_files_names_both(tmp_path: Path) -> None:
    save_states(tmp_path, {0: 0.0, 10: 1.0})
    torch.save({"w": torch.ones(2)}, tmp_path / "model_010.pt")
    with refuses(UsageError, "model_10.pt", "model_010.pt", "step 10"):
        plan_import([tmp_path])


def test_a_pattern_finds_the_step_in_the_path(tmp_path: Path) -> None:
    for step in (5, 30):
        (tmp_path / f"at-{step}").mkdir()
        torch.save({"w": torch.ones(2)}, tmp_path / f"at-{step}" / "v2.pt")
    paths = [tmp_path / f"at-{step}/v2.pt" for step in (30, 5)]
    assert plan_import(paths, step_pattern="at-([0-9]+)").steps == [5, 30]
    with refuses(UsageError, "v2.pt", "'by-([0-9]+)'"):
        plan_import(paths, step_pattern="by-([0-9]+)")
    with refuses(UsageError, "v2.pt"):
        plan_import(paths, step_pattern="(at)")
    for bad in ("(", "at-[0-9]+", "(a)(b)"):
        with refuses(UsageError, "step pattern"):
            plan_import(paths, step_pattern=bad)
    with refuses(UsageError, "metadata"):
        plan_import(paths, step_pattern="(.)", step_from="metadata")


@pytest.mark.parametrize("key", ["step", "global_step", "iteration", "iter", "epoch"])
@pytest.mark.parametrize("kind", [int, float, torch.tensor, lambda n: torch.tensor([n])])
def test_the_step_a_checkpoint_holds(key: str, kind: Any, tmp_path: Path) -> None:
    for i, step in enumerate((50, 7)):
        torch.save({"net": {"w": torch.ones(2)}, key: kind(step)}, tmp_path / f"m_{i}.pt")
    plan = plan_import([tmp_path], step_from="metadata")
    assert plan.steps == [7, 50]
    assert any(repr(key) in note for note in plan.notes)
    assert any("--steps-per-epoch" in note for note in plan.notes) == (key == "epoch")


def test_checkpoints_must_count_the_same_thing(tmp_path: Path) -> None:
    document = {"model": {"w": torch.ones(2)}}
    torch.save(document | {"step": 5, "epoch": 1}, tmp_path / "a.pt")
    torch.save(document | {"epoch": 2}, tmp_path / "b.pt")
    assert plan_import([tmp_path], step_from="metadata").steps == [1, 2]
    save_file({"w": torch.ones(2)}, tmp_path / "c.safetensors", metadata={"epoch": "3"})
    assert plan_import([tmp_path], step_from="metadata").steps == [1, 2, 3]
    assert plan_import([tmp_path], step_from="metadata", steps_per_epoch=4).steps == [4, 8, 12]
    torch.save(document | {"iter": 9}, tmp_path / "b.pt")
    with refuses(UsageError, "all of them have", "iteration"):
        plan_import([tmp_path], step_from="metadata")
    torch.save(document | {"step": "soon", "epoch": True, "iter": -1}, tmp_path / "b.pt")
    with refuses(UsageError, "b.pt has none"):
        plan_import([tmp_path], step_from="metadata")


def test_a_tensor_called_step_is_a_tensor(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "step": torch.tensor(5)}, tmp_path / "a.pt")
    with refuses(UsageError, "a.pt has none"):
        plan_import([tmp_path], step_from="metadata")


def test_what_is_missing_before_the_first_step_is_said(tmp_path: Path) -> None:
    save_states(tmp_path, {10: 1.0, 20: 2.0})
    assert any("step 0" in note for note in plan_import([tmp_path]).notes)
    save_states(tmp_path, {0: 0.0})
    assert plan_import([tmp_path]).notes == ()


def test_a_step_too_large(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / f"m_{2**62 + 1}.pt")
    with refuses(UsageError, "2**62"):
        plan_import([tmp_path])


def test_times_of_the_files(tmp_path: Path) -> None:
    save_states(tmp_path)
    for step, seconds in ((0, 1000.0), (10, 1002.5), (20, 1100.0)):
        os.utime(tmp_path / f"model_{step}.pt", (seconds, seconds))
    plan = plan_import([tmp_path], times=True)
    assert plan.notes == ()
    history = import_checkpoints(plan, tmp_path / "h.zarr")
    assert history.times.tolist() == [0.0, 2.5, 100.0]
    assert [s.time for s in plan_import([tmp_path]).sources] == [0.0] * 3
    os.utime(tmp_path / "model_10.pt", (900.0, 900.0))
    assert any("copied" in note for note in plan_import([tmp_path], times=True).notes)


# ---- what is refused


def test_checkpoints_of_different_models(tmp_path: Path) -> None:
    save_states(tmp_path, {0: 0.0, 10: 1.0})
    torch.save({"w": torch.ones(3)}, tmp_path / "model_20.pt")
    with refuses(ShapeError, "model_20.pt", "[3]", "[2]", "model_0.pt", "'w'"):
        plan_import([tmp_path])
    torch.save({"v": torch.ones(2)}, tmp_path / "model_20.pt")
    with refuses(ShapeError, "model_20.pt", "no 'w'"):
        plan_import([tmp_path])
    torch.save({"w": torch.ones(2), "v": torch.ones(2)}, tmp_path / "model_20.pt")
    with refuses(ShapeError, "model_20.pt", "'v'", "--exclude"):
        plan_import([tmp_path])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2).to_sparse(),
        torch.ones(2, device="meta"),
    ],
    ids=["complex", "sparse", "meta"],
)
def test_tensors_that_a_history_cannot_hold(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "odd": tensor}, tmp_path / "m_1.pt")
    with refuses(RecordingError, "'odd'", "m_1.pt", "--exclude"):
        plan_import([tmp_path])
    assert len(plan_import([tmp_path], exclude=["odd"]).parameters) == 1


def test_integers_that_float64_cannot_hold(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "n": torch.tensor(2**53 + 1)}, tmp_path / "m_0.pt")
    with refuses(RecordingError, "m_0.pt", "'n'", "float64"):
        import_checkpoints(plan_import([tmp_path]), tmp_path / "h.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m_0.pt"]


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def test_code_in_a_checkpoint_is_named_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    torch.save({"model": {"w": torch.ones(2)}, "x": Hostile(marker)}, tmp_path / "m_1.pt")
    with refuses(FormatError, "m_1.pt", " exec,", "weights_only=False"):
        plan_import([tmp_path])
    (tmp_path / "m_1.pt").write_bytes(pickle.dumps(Hostile(marker), protocol=2))
    with refuses(FormatError, "m_1.pt"):
        plan_import([tmp_path])
    assert not marker.exists()


GARBAGE = st.binary(max_size=60) | st.sampled_from([b"PK\x03\x04", b"{}", b"\x80\x02}q\x00."])


@settings(max_examples=100, deadline=None)
@given(
    GARBAGE,
    st.sampled_from(
        ["m_1.pt", "m_1.safetensors", "c-1/model.safetensors.index.json", "c-1/trainer_state.json"]
    ),
    st.sampled_from(["name", "metadata"]),
)
def test_any_garbage_gets_our_error(data: bytes, name: str, step_from: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        if name.endswith("trainer_state.json"):
            save_file({"w": torch.ones(1)}, path.with_name("model.safetensors"))
        if data == b"{}" and name.endswith("trainer_state.json"):
            plan_import([folder])  # it says nothing
            return
        with pytest.raises(WeightcastError) as caught:
            plan_import([folder], step_from=step_from)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "weight_map",
    [
        {"w": "../model_1.safetensors"},
        {"w": "/etc/passwd"},
        {"w": "sub/m.safetensors"},
        {"w": ".."},
        {"w": ""},
        {"w": "model.safetensors.index.json"},
        {"w": 3},
        {"w": None},
        ["w"],
        "w",
        None,
        {},
    ],
    ids=str,
)
def test_an_index_names_only_files_beside_it(weight_map: Any, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "model_1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with refuses(FormatError, "checkpoint-1"):
        plan_import([folder])


def test_shards_that_are_not_there_or_hold_something_else(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    hugging_face(folder, 5, shards=True)
    shard = folder / "model-00002-of-00002.safetensors"
    save_file({"c": torch.ones(1)}, shard)
    with refuses(FormatError, "'b.weight'", shard.name):
        plan_import([folder])
    shard.unlink()
    with refuses(InputNotFoundError, shard):
        plan_import([folder])


def test_names_of_files_are_printed_on_one_line(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a\n\x1b[31m_1.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / os.fsdecode(b"b\xff_2.pt"))
    plan = plan_import([tmp_path])
    assert all(source.label.isprintable() for source in plan.sources)
    import_checkpoints(plan, tmp_path / "h.zarr")


# ---- all or nothing


def test_an_import_that_breaks_leaves_what_was_there(tmp_path: Path) -> None:
    save_states(tmp_path / "c")
    before = import_checkpoints(plan_import([tmp_path / "c"]), tmp_path / "h.zarr")
    plan = plan_import([tmp_path / "c"])
    with refuses(OutputExistsError, "--overwrite"):
        import_checkpoints(plan, tmp_path / "h.zarr")

    def stop(what: str, done: int, total: int) -> None:
        assert (what, total) == ("importing", 3)
        if done == 2:
            raise KeyboardInterrupt

    for output, overwrite in (("h.zarr", True), ("new.zarr", False)):
        with pytest.raises(KeyboardInterrupt):
            import_checkpoints(
                plan, tmp_path / output, memory=1, overwrite=overwrite, progress=stop
            )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "h.zarr"]
    assert History(tmp_path / "h.zarr").steps.tolist() == before.steps.tolist() == [0, 10, 20]


@pytest.mark.parametrize(
    "state",
    [{"w": torch.ones(3)}, {"v": torch.ones(2)}, {"w": torch.ones(2, dtype=torch.float64)}],
    ids=str,
)
def test_a_checkpoint_that_changes_under_way(state: State, tmp_path: Path) -> None:
    plan = plan_import([save_states(tmp_path / "c")])
    torch.save(state, tmp_path / "c/model_10.pt")
    with refuses(ShapeError, "model_10.pt", "changed", "'w'"):
        import_checkpoints(plan, tmp_path / "h.zarr")
    assert not (tmp_path / "h.zarr").exists()


def test_an_import_does_not_replace_its_input(tmp_path: Path) -> None:
    plan = plan_import([save_states(tmp_path / "c")])
    for output in (tmp_path / "c/model_10.pt", tmp_path / "c"):
        with refuses(OutputExistsError, output):
            import_checkpoints(plan, output, overwrite=True)
    assert len(list((tmp_path / "c").iterdir())) == 3


# ---- the commands


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small net of 200 steps, with a checkpoint at every twentieth, as people save them."""
    folder = tmp_path_factory.mktemp("saved")

    def save(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step % 20 == 0:
            document = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(document | {"step": step}, folder / f"model_{step}.pt")

    train(normed, 200, save)
    return folder


@pytest.fixture
def ckpt(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as the folder ckpt of the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, "ckpt")


@pytest.mark.usefixtures("ckpt")
def test_a_run_that_was_not_recorded_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", "ckpt", "-o", "run.zarr"]
    assert main([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "model_180.pt" in shown
    assert "running_var" in shown
    assert "would import 11 checkpoints, steps 0 to 200" in shown
    assert not Path("run.zarr").exists()
    assert main(command) == 0
    assert "imported 11 checkpoints, steps 0 to 200" in capsys.readouterr().out
    build = ["dataset", "build", "run.zarr", "-o", "d.zarr", "--samples", "40"]
    assert main([*build, "--tolerance", "0.1"]) == 0
    dataset, history = Dataset("d.zarr"), History("run.zarr")
    names = [history.snapshot(int(t)) for t in dataset.step]
    assert np.array_equal(
        dataset.X[:, 0], [row[p] for row, p in zip(names, dataset.parameter, strict=True)]
    )
    capsys.readouterr()
    assert main(["export", "run.zarr", "--step", "last", "-o", "w.safetensors"]) == 0
    assert "step 200 of run.zarr" in capsys.readouterr().out
    expected = torch.load("ckpt/model_200.pt", weights_only=True)["model"]
    assert same_states(load_file("w.safetensors"), expected)


@pytest.mark.usefixtures("ckpt")
def test_options_of_the_command_reach_the_import(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--step-from metadata --exclude 2.* --buffers 3.bias --preset bounded --error 1e-4"
    words = ["import", "ckpt/model_20.pt", "ckpt/model_40.pt", "-o", "r.zarr", *options.split()]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "step 0" in shown.err
    history = History("r.zarr")
    assert history.steps.tolist() == [20, 40]
    assert (history.header.preset, history.header.error) == ("bounded", 1e-4)
    assert "3.bias" in history.buffers
    assert "2.weight" not in history.parameters
    assert main(["export", "r.zarr", "--step", "20", "-o", "w.pt"]) == 0
    assert "within 0.0001 of what was recorded" in capsys.readouterr().out
    assert main(["export", "r.zarr", "--step", "late", "-o", "v.pt"]) == 2
    assert "'late'" in capsys.readouterr().err
