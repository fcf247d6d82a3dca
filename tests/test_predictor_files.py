"""Forecasters in files: what comes back, and what a damaged or hostile file gets."""

from __future__ import annotations

import json
import math
import struct
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError
from store_reference import refuses

from weightcast.predictor import (
    MODELS,
    Forecaster,
    Introspection,
    LastValue,
    LinearFit,
    load,
    load_with_card,
    save,
)
from weightcast.store import (
    FormatError,
    InputNotFoundError,
    OutputExistsError,
    UsageError,
    WeightcastError,
)


def network(**options: Any) -> Introspection:
    random = np.random.default_rng(0)
    X = random.normal(size=(50, 4)).astype(np.float32)
    return Introspection(**{"steps": 5, "hidden": 6} | options).fit(X, X[:, 0])


FITTED = network()
MODELS_TO_SAVE = [
    FITTED,
    network(scale=1.0, random_state=None),
    network(context=(1.0, 0.9, 0.5, 0.1), horizon=1.5),
    LastValue().ready(),
    LinearFit((1.0, 0.5), 1.25).ready(),
    LinearFit().fit(np.zeros((1, 3)), np.zeros(1)),
]


def past_of(model: Forecaster) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(model.n_features_in_, 20, generator=generator)


# ---- what is saved comes back


@pytest.mark.parametrize("model", MODELS_TO_SAVE, ids=repr)
def test_a_loaded_forecaster_is_the_saved_one(model: Forecaster, tmp_path: Path) -> None:
    back = load(save(model, tmp_path / "f.safetensors"))
    assert type(back) is type(model)
    assert back.get_params() == model.get_params()
    assert (back.context_, back.horizon) == (model.context_, model.horizon)
    past = past_of(model)
    assert torch.equal(back.forecast(past), model.forecast(past))
    X = past.T.numpy()
    assert back.predict(X).tobytes() == model.predict(X).tobytes()


def test_every_model_can_be_saved() -> None:
    assert {type(model) for model in MODELS_TO_SAVE} == set(MODELS.values())


def test_what_was_loaded_can_be_saved_again(tmp_path: Path) -> None:
    first = save(FITTED, tmp_path / "a.safetensors")
    second = save(load(first), tmp_path / "b.safetensors")
    assert second.read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    "options",
    [{"random_state": np.random.RandomState(0)}, {"hidden": np.int64(6)}, {"scale": np.float32(8)}],
    ids=lambda o: next(iter(o)),
)
def test_numpys_numbers_and_generators_can_be_saved(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """scikit-learn's own searches set such parameters; `random_state` documents the generator."""
    model = network(**options)
    back = load(save(model, tmp_path / "f.safetensors"))
    assert torch.equal(back.forecast(past_of(model)), model.forecast(past_of(model)))


def test_the_card_comes_back(tmp_path: Path) -> None:
    card = {"dataset": {"source": "run.zarr"}, "errors": [1, 2.5, None], "name": "é"}
    path = save(FITTED, tmp_path / "f.safetensors", card=card)
    assert load_with_card(path)[1] == card
    assert load_with_card(save(FITTED, tmp_path / "g.safetensors"))[1] == {}


def test_a_card_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with refuses(UsageError, "card"):
        save(FITTED, tmp_path / "f.safetensors", card={"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_the_file_opens_without_weightcast(tmp_path: Path) -> None:
    found = load_file(save(FITTED, tmp_path / "f.safetensors"))
    names = ("hidden_weight_", "hidden_bias_", "output_weight_", "output_bias_")
    assert sorted(found) == sorted(names)
    for name in names:
        assert found[name].numpy().tobytes() == getattr(FITTED, name).tobytes()


def test_the_file_is_json_and_plain_numbers(tmp_path: Path) -> None:
    """Nothing in it can hold code: a JSON header, and after it the tensors' own bytes."""
    data = save(FITTED, tmp_path / "f.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert list(metadata) == ["weightcast"]
    assert isinstance(json.loads(metadata["weightcast"]), dict)
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    size = 4 * sum(math.prod(entry["shape"]) for entry in header.values())
    assert len(data) == 8 + length + size


# ---- what cannot be written


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = save(FITTED, tmp_path / "f.safetensors")
    before = path.read_bytes()
    with refuses(OutputExistsError, "exists", path):
        save(LinearFit(), path)
    assert path.read_bytes() == before
    save(LinearFit(), path, overwrite=True)
    assert isinstance(load(path), LinearFit)
    assert list(tmp_path.iterdir()) == [path]


def test_an_untrained_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="not fitted"):
        save(Introspection(), tmp_path / "f.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_forecaster_of_another_kind_is_refused(tmp_path: Path) -> None:
    class Mine(LastValue):
        pass

    with refuses(UsageError, "Mine", "LinearFit"):
        save(Mine(), tmp_path / "f.safetensors")
    assert list(tmp_path.iterdir()) == []


# ---- what cannot be read


def written(
    folder: str | Path, tensors: Any = None, text: str | None = None, **changes: Any
) -> Path:
    """A file like that of `FITTED`, with other tensors, other header entries or another header."""
    header = {
        "format": 1,
        "model": "introspection",
        "parameters": FITTED.get_params(),
        "context": FITTED.context_,
        "card": {},
    }
    path = Path(folder) / "f.safetensors"
    metadata = {"weightcast": json.dumps(header | changes) if text is None else text}
    save_file(FITTED.tensors() if tensors is None else tensors, path, metadata=metadata)
    return path


def test_the_files_that_are_broken_below_are_whole_before(tmp_path: Path) -> None:
    past = past_of(FITTED)
    assert torch.equal(load(written(tmp_path)).forecast(past), FITTED.forecast(past))


def test_no_file(tmp_path: Path) -> None:
    with refuses(InputNotFoundError, tmp_path / "no.safetensors", "weightcast fit"):
        load(tmp_path / "no.safetensors")
    with refuses(InputNotFoundError, tmp_path):
        load(tmp_path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = written(tmp_path).read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in [*range(0, len(whole), 41), 7, 8, 9, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with refuses(FormatError, path, "truncated"):
            load(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80))
def test_garbage_is_refused(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "garbage.safetensors"
        path.write_bytes(data)
        with refuses(FormatError, path):
            load(path)


def test_somebody_elses_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"w": torch.zeros(3)}, path, metadata=metadata)
        with refuses(FormatError, path, "not a weightcast forecaster"):
            load(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, format=2)
    with refuses(FormatError, path, "format 2", "upgrade"):
        load(path)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, model="nino")
    with refuses(FormatError, path, "nino"):
        load(path)


def changed(name: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    rest = {n: t for n, t in FITTED.tensors().items() if n != name}
    return rest if tensor is None else rest | {name: tensor}


@pytest.mark.parametrize("name", FITTED.tensors())
def test_wrong_tensors_are_refused(name: str, tmp_path: Path) -> None:
    right = FITTED.tensors()[name]
    for wrong in (
        None,
        torch.zeros(9, 9),
        right.double(),
        right.int(),
        torch.full_like(right, torch.nan),
        torch.full_like(right, torch.inf),
    ):
        path = written(tmp_path, changed(name, wrong))
        with refuses(FormatError, path, name):
            load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": None},
        {"parameters": [1]},
        {"parameters": {"hidden": 6, "layers": 3}},
        {"parameters": {"hidden": 7}},
        {"parameters": {"hidden": "6"}},
        {"parameters": {"hidden": 6, "scale": "1000"}},
        {"parameters": {"hidden": 6, "scale": None}},
        {"parameters": {"hidden": 6, "scale": 0}},
        {"parameters": {"hidden": 6, "scale": math.nan}},
        {"parameters": {"hidden": 6, "scale": 10**300}},
        {"parameters": {"hidden": 6, "horizon": "2"}},
        {"parameters": {"hidden": 6, "horizon": math.nan}},
        {"parameters": {"hidden": 6, "context": [1, 0.5]}},
        {"context": None},
        {"context": []},
        {"context": 4},
        {"context": "1234"},
        {"context": [1, 0.7, 0.4]},
        {"context": [1, 0.7, 0.4, math.nan]},
        {"context": [1, 0.7, 0.4, 10**400]},
        {"context": [9, 7, 4, 0]},
        {"card": 5},
        {"card": "text"},
        {"model": ["introspection"]},
        {"format": None},
    ],
    ids=lambda c: str(c)[:60],
)
def test_a_header_that_breaks_a_rule_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, **changes)
    with refuses(FormatError, path):
        load(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", '"text"', "{}", "[" * 100_000], ids=lambda t: t[:9]
)
def test_a_header_that_is_no_header_is_refused(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, text=text)
    with refuses(FormatError, path):
        load(path)


NUMBERS = st.integers(-2, 10) | st.floats() | st.integers(-(10**400), 10**400)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ENTRIES = st.sampled_from(["format", "model", "parameters", "context", "card"])
OPTIONS = st.dictionaries(st.sampled_from(sorted(FITTED.get_params())), TREES, max_size=3)


def loads_or_refuses(path: Path) -> None:
    """Whatever stands in the file: our error, or a forecaster that forecasts."""
    with suppress(WeightcastError):
        model, card = load_with_card(path)
        assert isinstance(card, dict)
        assert model.forecast(torch.zeros(model.n_features_in_, 3)).shape == (3,)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)),
    st.dictionaries(ENTRIES, TREES, max_size=2),
    st.none() | OPTIONS,
)
def test_hostile_headers_get_our_errors_only(
    model: str, changes: dict[str, Any], options: dict[str, Any] | None
) -> None:
    if options is not None:
        full = FITTED.get_params() if model == "introspection" else {}
        changes = {"parameters": full | options} | changes
    with TemporaryDirectory() as folder:
        loads_or_refuses(written(folder, **{"model": model} | changes))


@settings(max_examples=80, deadline=None)
@given(TREES, st.integers(0, 40))
def test_hostile_safetensors_get_our_errors_only(tree: Any, size: int) -> None:
    """The outer header, which safetensors itself reads."""
    text = json.dumps(tree if isinstance(tree, dict) else {"hidden_weight_": tree}).encode()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "f.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
        loads_or_refuses(path)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_flipped_bytes_get_our_errors_only(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = written(folder)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        loads_or_refuses(path)
