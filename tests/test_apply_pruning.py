"""Pruning: the lowest magnitudes go, counted exactly; masks are written, read and rewound under."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from store_reference import refuses
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, distribute_tensor
from torch.nn.utils import prune as torch_prune
from torch.testing._internal.distributed.fake_pg import FakeStore

from weightcast.apply import density, load_mask, prune, random_mask, rewind, save_mask
from weightcast.apply.rewinding import rewind_checkpoint
from weightcast.cli.main import main
from weightcast.recorder import Recorder
from weightcast.store import (
    FormatError,
    History,
    HistoryWriter,
    InputNotFoundError,
    NonFiniteError,
    OutputExistsError,
    ParameterTable,
    ShapeError,
    StepNotRecordedError,
    UsageError,
)

State = dict[str, torch.Tensor]


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))


def record(folder: Path, model: nn.Module) -> tuple[Path, list[State]]:
    """A run of three steps, and its states."""
    states = [{n: t.clone() for n, t in model.state_dict().items()}]
    with Recorder(model, folder / "run.zarr") as recorder:
        for step in range(3):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
            states.append({n: t.clone() for n, t in model.state_dict().items()})
            recorder()
    return folder / "run.zarr", states


def same(these: State, those: State) -> bool:
    return list(these) == list(those) and all(torch.equal(t, those[n]) for n, t in these.items())


def slow(weights: State, fraction: float, scope: str, mask: State | None) -> State:
    """The obvious way: sort all that remain, as Python numbers, and take the first."""
    kept = {n: torch.ones(t.shape).bool() for n, t in weights.items()} | dict(mask or {})
    groups = [list(weights)] if scope == "global" else [[n] for n in weights]
    found = {n: [bool(b) for b in kept[n].reshape(-1)] for n in weights}
    for group in groups:
        remaining = [
            (abs(w), i, n, j)
            for i, n in enumerate(group)
            for j, w in enumerate(weights[n].reshape(-1).tolist())
            if found[n][j]
        ]
        for _, _, n, j in sorted(remaining)[: round(fraction * len(remaining))]:
            found[n][j] = False
    return {n: torch.tensor(b).view(weights[n].shape) for n, b in found.items()}


shapes = st.tuples(st.integers(1, 4), st.integers(1, 5))
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(shapes, dtypes), min_size=1, max_size=3),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["global", "layer"]),
    st.integers(0, 2**31),
    st.sampled_from([1, 3, 10**5]),
    st.booleans(),
)
def test_the_lowest_go_first_and_then_the_first(
    tensors: list[Any], fraction: float, scope: Any, seed: int, values: int, masked: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    weights = {  # multiples of 0.1, which float32 and float64 round in different ways
        str(i): (torch.randint(-values, values + 1, shape, generator=draw).double() / 10).to(dtype)
        for i, (shape, dtype) in enumerate(tensors)
    }
    mask = {"0": torch.randint(2, tensors[0][0], generator=draw).bool()} if masked else None
    found = prune(weights, fraction, scope=scope, mask=mask)
    assert same(found, slow(weights, fraction, scope, mask))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_as_torch_prunes(scope: Any) -> None:
    """Two rounds; its counts are of what remains too."""
    model, theirs = network(), network()
    places = [(theirs[0], "weight"), (theirs[3], "weight")]
    mask = None
    for _ in range(2):
        if scope == "global":
            torch_prune.global_unstructured(places, torch_prune.L1Unstructured, amount=0.3)
        else:
            for module, name in places:
                torch_prune.l1_unstructured(module, name, 0.3)
        mask = prune(model, 0.3, scope=scope, mask=mask)
        assert list(mask) == ["0.weight", "3.weight"]
        for (module, _), found in zip(places, mask.values(), strict=True):
            assert torch.equal(module.weight_mask.bool(), found)  # type: ignore[arg-type]


def test_every_source_gives_the_same(tmp_path: Path) -> None:
    model = network()
    path, states = record(tmp_path, model)
    last = prune(model, 0.4)
    assert same(prune(path, 0.4), last)
    assert same(prune(str(path), 0.4, step=3), last)
    assert same(prune(torch.compile(model, backend="eager"), 0.4), last)  # type: ignore[arg-type]
    assert same(prune(model.state_dict(), 0.4), last)
    model.load_state_dict(states[1])
    assert same(prune(History(path), 0.4, step=1), prune(model, 0.4))
    assert not same(prune(path, 0.4, step=1), last)
    torch.save({"module." + n: t for n, t in states[3].items()}, tmp_path / "wrapped.pt")
    torch.save({"epoch": 1, "ema": states[3]}, tmp_path / "in.pt")
    save_file(states[3], tmp_path / "in.safetensors")
    assert same(prune(tmp_path / "wrapped.pt", 0.4), last)
    assert same(prune(tmp_path / "in.pt", 0.4, key="ema"), last)
    assert same(prune(tmp_path / "in.safetensors", 0.4), last)


def test_nothing_but_the_mask_is_made() -> None:
    model, untouched = network(), network()
    mask = prune(model, 0.5)
    before = {n: t.clone() for n, t in mask.items()}
    prune(model, 0.5, mask=mask)
    assert same(mask, before)
    assert same(dict(model.state_dict()), dict(untouched.state_dict()))


def test_globs_choose_and_other_masks_stay() -> None:
    model = network()
    first = prune(model, 0.5, include=["0.*"], exclude=["*.bias"])
    assert list(first) == ["0.weight"]
    second = prune(model, 0.5, mask=first, include=["3.weight"])
    assert list(second) == ["0.weight", "3.weight"]
    assert torch.equal(second["0.weight"], first["0.weight"])
    assert int(second["3.weight"].sum()) == 24
    assert list(prune(model, 0.5, include=["1.*", "3.bias"])) == ["1.weight", "1.bias", "3.bias"]
    norm = nn.Sequential(nn.LayerNorm([2, 2]), nn.Linear(2, 2))
    assert list(prune(norm, 0.5)) == ["1.weight"]


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[0].weight = nn.Parameter(torch.arange(9.0).view(3, 3))
    model[1].weight = model[0].weight
    return model


def test_tied_weights_count_once(tmp_path: Path) -> None:
    model = tied()
    expected = {"0.weight": torch.arange(9).view(3, 3) >= 3}
    assert same(prune(model, 1 / 3), expected)
    assert same(prune(model.state_dict(), 1 / 3), expected)
    path, _ = record(tmp_path, model)
    assert same(prune(path, 1 / 3), prune(model, 1 / 3))
    under_the_other_name = {"1.weight": expected["0.weight"]}
    assert int(prune(model, 0.5, mask=under_the_other_name)["0.weight"].sum()) == 3


def test_of_a_dtensor_all_is_compared() -> None:
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=2, world_size=3)
    try:
        mesh = DeviceMesh("cpu", [0, 1, 2])
        model = network()
        whole = prune(model, 0.5)
        for module in (model[0], model[3]):
            spread = distribute_tensor(module.weight, mesh, [Replicate()], src_data_rank=None)
            module.weight = nn.Parameter(spread)
        assert same(prune(model, 0.5), whole)
    finally:
        torch.distributed.destroy_process_group()


def test_dtypes_are_compared_exactly() -> None:
    tenth = torch.full((1, 1), 0.1)  # in float32 a little more than in float64
    mask = prune({"a": tenth, "b": torch.full((1, 1), 0.1, dtype=torch.float64)}, 0.5)
    assert [bool(t) for t in mask.values()] == [True, False]


def test_a_mask_may_have_the_names_of_a_wrapper() -> None:
    model = network()
    mask = prune(model, 0.5)
    wrapped = {f"module.{name}": t for name, t in mask.items()}
    assert same(prune(model, 0.5, mask=wrapped), prune(model, 0.5, mask=mask))


def test_nothing_may_remain() -> None:
    mask = prune({"a": torch.ones(2, 2), "b": 5 * torch.ones(2, 2)}, 0.5)
    assert not mask["a"].any()
    assert mask["b"].all()
    emptied = prune({"a": torch.ones(1, 1)}, 0.9)
    assert not emptied["a"].any()
    assert same(prune({"a": torch.ones(1, 1)}, 0.9, mask=emptied), emptied)


# ---- random masks, densities, files


@settings(deadline=None, max_examples=50)
@given(st.lists(shapes, min_size=1, max_size=3), st.integers(0, 2**31))
def test_random_masks_prune_as_many(sizes: list[Any], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    like = {str(i): torch.randint(2, s, generator=draw).bool() for i, s in enumerate(sizes)}
    found = random_mask(like, seed)
    assert [(n, t.shape, int(t.sum())) for n, t in found.items()] == [
        (n, t.shape, int(t.sum())) for n, t in like.items()
    ]
    assert same(random_mask({"0": like["0"]}, seed), {"0": found["0"]})


def test_random_masks_differ_by_seed_and_name_and_prune_anywhere() -> None:
    like = {n: torch.arange(400).view(20, 20) >= 200 for n in ("a", "b")}
    one, two = random_mask(like, 1), random_mask(like, 2)
    assert not torch.equal(one["a"], one["b"])
    assert not torch.equal(one["a"], two["a"])
    assert 70 < int(one["a"][:10].sum()) < 130


def test_a_density_is_the_share_that_stays() -> None:
    assert density({"a": torch.ones(3).bool(), "b": torch.zeros(5).bool()}) == 3 / 8
    assert density({}) == 1


def test_masks_come_back_from_files(tmp_path: Path) -> None:
    mask, path = prune(network(), 0.3), tmp_path / "mask.safetensors"
    save_mask(mask, path)
    assert same(dict(load_mask(path)), mask)
    with refuses(OutputExistsError, path, "--overwrite"):
        save_mask(mask, path)
    save_mask(prune(network(), 0.6), path, overwrite=True)
    assert density(load_mask(path)) < density(mask)


# ---- rewinding under a mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_rewinding_can_prune(dtype: torch.dtype, tmp_path: Path) -> None:
    model = network().to(dtype)
    path, states = record(tmp_path, model)
    mask = prune(model, 0.5)
    report = rewind(model, path, 1, mask=mask, zero=True)
    assert report.masked == 36
    for name, tensor in model.state_dict().items():
        expected = states[1][name] * mask.get(name, torch.tensor(True))
        assert torch.equal(tensor, expected.to(tensor.dtype)), name
    with refuses(UsageError, "mask"):
        rewind(model, path, 1, zero=True)


def test_a_checkpoint_can_be_rewound_and_pruned(tmp_path: Path) -> None:
    path, states = record(tmp_path, network())
    torch.save(states[3], tmp_path / "in.pt")
    mask = prune(path, 0.5)
    rewind_checkpoint(path, 0, tmp_path / "in.pt", tmp_path / "out.pt", mask=mask, zero=True)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    for name in mask:
        assert torch.equal(found[name], states[0][name] * mask[name])
    assert torch.equal(found["3.bias"], states[0]["3.bias"])


# ---- what is refused


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan"), "a", None])
def test_fractions_out_of_range(fraction: Any) -> None:
    with refuses(UsageError, "at least 0 and below 1", repr(fraction)):
        prune(network(), fraction)


def test_bad_arguments(tmp_path: Path) -> None:
    model = network()
    path, _ = record(tmp_path, model)
    with refuses(UsageError, "'global' or 'layer'", "'tensor'"):
        prune(model, 0.5, scope="tensor")  # type: ignore[arg-type]
    with refuses(UsageError, "leave nothing", "the model"):
        prune(model, 0.5, include=["nope"])
    with refuses(UsageError, "only a history has steps", "step 1", "Sequential"):
        prune(model, 0.5, step=1)
    with refuses(UsageError, "only a checkpoint file has keys", "'ema'", path):
        prune(path, 0.5, key="ema")
    with refuses(UsageError, "got a int"):
        prune(3, 0.5)  # type: ignore[arg-type]
    with refuses(StepNotRecordedError, "step 9", "nearest are 3"):
        prune(path, 0.5, step=9)
    with refuses(InputNotFoundError, "/nowhere"):
        prune("/nowhere.zarr", 0.5)
    (tmp_path / "in.pt").write_bytes(b"nothing")
    with refuses(FormatError, "in.pt"):
        prune(tmp_path / "in.pt", 0.5)
    with refuses(UsageError, "step 1", "in.pt"):
        prune(tmp_path / "in.pt", 0.5, step=1)
    with refuses(UsageError, "seed"):
        random_mask(prune(model, 0.5), -1)
    with HistoryWriter.create(
        tmp_path / "empty.zarr", ParameterTable.of([("w", (2, 2), "float32", "weight")])
    ):
        pass
    with refuses(StepNotRecordedError, "no steps yet"):
        prune(tmp_path / "empty.zarr", 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_cannot_be_compared(value: float) -> None:
    weights = {"a": torch.ones(2, 2), "b": torch.tensor([[1.0, value]])}
    with refuses(NonFiniteError, "'b'", "finite", "the state_dict"):
        prune(weights, 0.5)
    assert int(prune(weights, 0.5, exclude=["b"])["a"].sum()) == 2
    gone = {"b": torch.tensor([[True, False]])}
    assert not prune(weights, 0.5, mask=gone)["b"][0, 1]


def test_masks_of_another_model() -> None:
    model, ones = network(), torch.ones(4, 12).bool()
    with refuses(ShapeError, "'4.weight'", "none of the", "'0.weight'"):
        prune(model, 0.5, mask={"3.weight": ones, "4.weight": ones})
    with refuses(ShapeError, "'3.weight'", "[12, 4]", "[4, 12]"):
        prune(model, 0.5, mask={"3.weight": ones.T})
    with refuses(ShapeError, "'3.weight'", "float32", "torch.bool"):
        prune(model, 0.5, mask={"3.weight": ones.float()})
    with refuses(UsageError, "mapping"):
        prune(model, 0.5, mask=[ones])  # type: ignore[arg-type]


def test_what_is_no_mask_is_not_written(tmp_path: Path) -> None:
    for call in (density, lambda m: random_mask(m, 1), lambda m: save_mask(m, tmp_path / "m.st")):
        with refuses(UsageError):
            call({"w": torch.ones(2)})
    with refuses(UsageError, ".safetensors", "mask.pt"):
        save_mask({"w": torch.ones(2).bool()}, tmp_path / "mask.pt")
    assert not list(tmp_path.iterdir())


# ---- the command


def test_the_whole_cycle_by_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    _, states = record(tmp_path, model)
    torch.save(states[3], "trained.pt")
    assert main(["prune", "run.zarr", "--fraction", "0.5", "-o", "one.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert "36 of 72 weights remain (50.00%): one.safetensors" in shown
    assert "0.weight" in shown
    line = "prune trained.pt --fraction 0.5 --mask one.safetensors --json -o two.safetensors"
    assert main(line.split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["weights"], document["remain"], document["share"]) == (72, 18, 0.25)
    mask = load_file("two.safetensors")
    assert same(mask, prune(model, 0.5, mask=load_mask("one.safetensors")))
    assert [t["remain"] for t in document["tensors"]] == [int(t.sum()) for t in mask.values()]
    line = "rewind --history run.zarr --step 1 --checkpoint trained.pt --mask two.safetensors"
    assert main([*line.split(), "--zero-pruned", "-o", "out.pt"]) == 0
    assert "54 are 0 for the mask" in capsys.readouterr().out
    found = torch.load("out.pt", weights_only=True)
    assert int(found["3.weight"].count_nonzero() + found["0.weight"].count_nonzero()) == 18
    assert main([*line.split(), "-o", "stays.pt"]) == 0
    assert "54 stay as they were for the mask" in capsys.readouterr().out


def test_a_tensor_that_is_lost_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(2, 2), "b": 5 * torch.ones(2, 2)}, tmp_path / "in.pt")
    words = ["prune", str(tmp_path / "in.pt"), "-o", str(tmp_path / "m.safetensors")]
    assert main([*words, "--fraction", "0.5"]) == 0
    assert capsys.readouterr().err == "weightcast: warning: no weight remains of a\n"
    assert main([*words, "--fraction", "0.25", "--overwrite"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("--fraction 1", 2, "below 1: got 1.0"),
        ("--fraction .5 --step 7", 1, "nearest are 3"),
        ("--fraction .5 --mask other.safetensors", 1, "'w'"),
        ("--fraction .5 --mask nowhere", 2, "no mask nowhere"),
        ("--fraction .5 --include nothing", 2, "leave nothing"),
        ("--fraction .5 -o run.zarr/mask.safetensors", 2, "must not lie in each other"),
        ("--fraction .5 -o mask.pt", 2, ".safetensors"),
    ],
)
def test_bad_commands(
    line: str,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path, network())
    save_file({"w": torch.ones(2).bool()}, "other.safetensors")
    output = [] if "-o" in line else ["-o", "mask.safetensors"]
    assert main(["prune", "run.zarr", *line.split(), *output]) == code
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert words in shown.err
    assert not shown.out
    assert not list(tmp_path.rglob("mask.*"))


def test_zero_needs_a_mask_by_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    line = "rewind --history h --step 1 --checkpoint c --zero-pruned -o out.pt"
    assert main(line.split()) == 2
    assert "--mask" in capsys.readouterr().err


def test_magnitudes_are_those_of_a_lossy_history(tmp_path: Path) -> None:
    values = np.float32([[[0.1, -5.0], [3.0, 0.2]]])
    table = ParameterTable.of([("w", (2, 2), "float32", "weight")])
    with HistoryWriter.create(tmp_path / "run.zarr", table, preset="bounded", error=1e-3) as writer:
        writer.append([0], [0.0], values.reshape(1, 4))
    expected = {"w": torch.tensor([[False, True], [True, False]])}
    assert same(prune(tmp_path / "run.zarr", 0.5), expected)


def test_pruning_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code and the commands of docs/pruning.md."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "docs/pruning.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    known: dict[str, Any] = {}
    exec(compile(program, "docs/pruning.md", "exec"), known)
    (said,) = re.findall(r"print\(.*# (.*)", program)
    assert capsys.readouterr().out == f"{said}\n"
    assert density(load_mask("mask.safetensors")) == density(known["mask"])
    kept = {n: t.ne(0) for n, t in known["model"].named_parameters() if n in known["mask"]}
    assert same(kept, known["mask"])
    torch.save(known["model"].state_dict(), "trained.pt")
    for line in re.findall(r"^\$ weightcast (.*)$", text, re.MULTILINE):
        assert main(shlex.split(line)) == 0, line
