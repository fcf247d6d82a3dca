"""Forecasters in files: what comes back, and what a damaged or hostile file gets."""

from __future__ import annotations

import io
import json
import math
import struct
import sys
import tracemalloc
import warnings
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import pytest
import skops.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from store_reference import refuses

from weightcast.predictor import (
    MODELS,
    WNN,
    Forecaster,
    GaussianNoise,
    Introspection,
    LastValue,
    Line,
    LinearFit,
    LinearIntrospection,
    QuadraticFit,
    SklearnForecaster,
    load,
    load_with_card,
    read_header,
    save,
    untrusted_types,
)
from weightcast.predictor.files import MOST_BYTES
from weightcast.predictor.headers import KINDS
from weightcast.store import (
    FormatError,
    InputNotFoundError,
    MissingExtraError,
    OutputExistsError,
    UsageError,
    WeightcastError,
    WeightcastWarning,
)
from weightcast.store.horizon import Horizon

GOLDEN = Path(__file__).parent / "golden"
TREES_TYPE = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"


def fitted(model: Forecaster) -> Forecaster:
    width = 4 if model.context is None else len(model.context)
    X = np.random.default_rng(0).uniform(0.1, 1, size=(50, width)).astype(np.float32)
    return model.fit(X, X[:, 0])


def network(**options: Any) -> Introspection:
    return fitted(Introspection(**{"steps": 5, "hidden": 6} | options))


FITTED = network()
SEEN = (1.0, "t-25", "slope:100/25", "ahead")
MODELS_TO_SAVE = [
    FITTED,
    network(scale=1.0, random_state=None),
    network(context=(1.0, 0.9, 0.5, 0.1), horizon=1.5),
    network(context=SEEN, horizon=("+500", 2)),
    network(horizon=Horizon(steps=30)),
    fitted(LinearIntrospection(steps=5)),
    fitted(WNN(steps=5, hidden=3)),
    LastValue().ready(),
    LinearFit((1.0, 0.5), 1.25).ready(),
    LinearFit().fit(np.zeros((1, 3)), np.zeros(1)),
    QuadraticFit().ready(),
    Line(100, 25).ready(),
    fitted(GaussianNoise()),
    fitted(SklearnForecaster(Ridge(alpha=0.1), context=SEEN, horizon="+500")),
    fitted(SklearnForecaster(make_pipeline(StandardScaler(), LinearRegression()), scale=8.0)),
    fitted(SklearnForecaster(HistGradientBoostingRegressor(max_iter=3))),
    fitted(SklearnForecaster(MLPRegressor(hidden_layer_sizes=(3,), tol=1e9))),
]
RIDGE = fitted(SklearnForecaster(Ridge()))
TRUSTED = [TREES_TYPE]


def past_of(model: Forecaster) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(model.n_features_in_, 20, generator=generator) + 0.1


def named(model: Forecaster, folder: Path, stem: str = "f") -> Path:
    suffix = ".skops" if isinstance(model, SklearnForecaster) else ".safetensors"
    return folder / f"{stem}{suffix}"


# ---- what is saved comes back


@pytest.mark.parametrize("model", MODELS_TO_SAVE, ids=repr)
def test_a_loaded_forecaster_is_the_saved_one(model: Forecaster, tmp_path: Path) -> None:
    back = load(save(model, named(model, tmp_path)), trusted=TRUSTED)
    assert type(back) is type(model)
    assert repr(back) == repr(model).replace("Horizon(ratio=1.0, steps=30)", "'+30'")
    assert (back.context_, back.horizons) == (model.context_, model.horizons)
    past = past_of(model)
    assert torch.equal(back.forecast(past), model.forecast(past))
    X = past.T.numpy()
    assert back.predict(X).tobytes() == model.predict(X).tobytes()


def test_every_model_can_be_saved() -> None:
    kinds = {type(model) for model in MODELS_TO_SAVE}
    assert kinds == set(KINDS.values()) == {model.kind for model in MODELS.values()}


@pytest.mark.parametrize("model", MODELS_TO_SAVE, ids=repr)
def test_what_was_loaded_can_be_saved_again(model: Forecaster, tmp_path: Path) -> None:
    first = save(model, named(model, tmp_path))
    second = save(load(first, trusted=TRUSTED), named(model, tmp_path, "g"))
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
    assert load_with_card(save(RIDGE, tmp_path / "g.skops", card=card))[1] == card


def test_the_header_says_what_there_is_without_loading_it(tmp_path: Path) -> None:
    """Also of a file whose types nobody trusts."""
    for model in MODELS_TO_SAVE:
        header = read_header(save(model, named(model, tmp_path), card={"a": 1}, overwrite=True))
        assert KINDS[header.model] is type(model)
        assert header.context == model.context_
        assert header.card == {"a": 1}
        regressor = getattr(model, "regressor", None)
        assert header.regressor == ("" if regressor is None else " ".join(repr(regressor).split()))


@pytest.mark.parametrize(("version", "options"), [(1, {}), (2, {"horizon": ("+500", 2.0)})])
def test_golden_networks(version: int, options: dict[str, Any]) -> None:
    """Files of every format are read for ever."""
    back, card = load_with_card(GOLDEN / f"forecaster-v{version}.safetensors")
    assert isinstance(back, Introspection)
    assert (back.hidden, back.scale, back.random_state) == (2, 8.0, 3)
    assert back.context_ == ((1.0, 0.5, 0.0) if version == 1 else (1.0, "t-25", "slope:100/25"))
    assert back.horizon == options.get("horizon", 1.5)
    assert (back.scaling, back.target) == ("fixed", "value")
    past = [[1.0, 0.5, -1.0], [0.0, -1.0, -1.0], [0.0, 2.0, -1.0]]
    assert back.forecast(torch.tensor(past)).tolist() == [2.140625, 0.171875, 0.015625]
    assert card["dataset"] == {"source": "run.zarr"}


def test_golden_regressor() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightcastWarning)  # of another scikit-learn
        back, card = load_with_card(GOLDEN / "forecaster-v2.skops")
    assert isinstance(back, SklearnForecaster)
    assert isinstance(back.regressor, Ridge)
    assert (back.scale, back.target, back.regressor.alpha) == (8.0, "value", 2.0)
    past = torch.tensor([[1.0, 0.5], [0.0, -1.0]])
    assert back.forecast(past).tolist() == [2.125, 0.625]
    assert card == {"note": "golden"}


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
        "parameters": FITTED.get_params() | {"context": None},
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
    path = written(tmp_path, format=3)
    with refuses(FormatError, path, "format 3", "upgrade"):
        load(path)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, model="introspektion")
    with refuses(FormatError, path, "introspektion", "did you mean 'introspection'"):
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
        {"context": [1, "t-25", "t-25", 0]},
        {"context": [1, "__import__('os')", 0.4, 0]},
        {"context": ["last:4/25"]},
        {"parameters": {"hidden": 6, "horizon": "+0"}},
        {"parameters": {"hidden": 6, "horizon": {"steps": 4}}},
        {"parameters": {"hidden": 6, "scaling": "cube"}},
        {"parameters": {"hidden": 10**12}},
        {"parameters": {"hidden": 10**400}},
        {"format": 0},
        {"format": True},
        {"model": "scikit-learn"},
        {"model": "ridge"},
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
    with suppress(WeightcastError), warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightcastWarning)  # of another scikit-learn
        model, card = load_with_card(path)
        assert isinstance(card, dict)
        assert model.forecast(torch.ones(model.n_features_in_, 3)).shape == (3,)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted({*KINDS, *MODELS})),
    st.dictionaries(ENTRIES, TREES, max_size=2),
    st.none() | OPTIONS,
)
def test_hostile_headers_get_our_errors_only(
    model: str, changes: dict[str, Any], options: dict[str, Any] | None
) -> None:
    if options is not None:
        full = FITTED.get_params() | {"context": None} if model == "introspection" else {}
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


# ---- files by their suffix


@pytest.mark.parametrize("name", ["f.skops", "f.pt", "f", "f.safetensors.skops"])
def test_a_network_is_saved_as_safetensors_only(name: str, tmp_path: Path) -> None:
    with refuses(UsageError, "introspection", ".safetensors", tmp_path / name):
        save(FITTED, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_regressor_is_saved_as_skops_only(tmp_path: Path) -> None:
    with refuses(UsageError, "scikit-learn", "f.skops"):
        save(RIDGE, tmp_path / "f.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_files_of_one_kind_under_the_name_of_the_other(tmp_path: Path) -> None:
    whole = save(FITTED, tmp_path / "f.safetensors"), save(RIDGE, tmp_path / "f.skops")
    for path, other in zip(whole, ("g.skops", "g.safetensors"), strict=True):
        (tmp_path / other).write_bytes(path.read_bytes())
        with refuses(FormatError, tmp_path / other, "truncated"):
            load(tmp_path / other)


def test_what_skops_cannot_keep_is_refused(tmp_path: Path) -> None:
    model = fitted(
        SklearnForecaster(make_pipeline(FunctionTransformer(lambda x: x), LinearRegression()))
    )
    with refuses(UsageError, "Pipeline", "cannot be kept"):
        save(model, tmp_path / "f.skops")
    assert list(tmp_path.iterdir()) == []


def test_without_skops_only_headers_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(RIDGE, tmp_path / "f.skops")
    monkeypatch.setitem(sys.modules, "skops.io", None)
    for call in (lambda: load(path), lambda: save(RIDGE, tmp_path / "g.skops")):
        with refuses(MissingExtraError, "weightcast[skops]"):
            call()
    assert read_header(path).regressor == "Ridge()"
    assert list(tmp_path.iterdir()) == [path]


def test_the_skops_file_opens_without_weightcast(tmp_path: Path) -> None:
    found = skops.io.load(save(RIDGE, tmp_path / "f.skops"))
    assert found["fitted"].coef_.tobytes() == RIDGE.regressor_.coef_.tobytes()
    assert json.loads(found["weightcast"])["model"] == "scikit-learn"


# ---- hostile .skops files


Members = dict[str, bytes]


def taken_apart(model: Forecaster, folder: Path) -> tuple[dict[str, Any], Members]:
    with ZipFile(save(model, folder / "whole.skops", overwrite=True)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    return json.loads(members.pop("schema.json")), members


def rebuilt(folder: Path, schema: Any, members: Members, **how: Any) -> Path:
    path = folder / "f.skops"
    with ZipFile(path, "w", **how) as file:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        file.writestr(ZipInfo("schema.json"), text)
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Members]:
    schema, members = taken_apart(RIDGE, tmp_path_factory.mktemp("parts"))
    return json.dumps(schema), members


def node(module: str, name: str, loader: str, **more: Any) -> dict[str, Any]:
    return {"__module__": module, "__class__": name, "__loader__": loader, **more}


def nodes_of(schema: Any) -> list[dict[str, Any]]:
    inner = schema.values() if isinstance(schema, dict) else schema
    found = [n for v in inner if isinstance(v, dict | list) for n in nodes_of(v)]
    return found + [schema] * (isinstance(schema, dict) and "__loader__" in schema)


def test_the_skops_files_that_are_broken_below_are_whole_before(
    tmp_path: Path, parts: tuple[str, Members]
) -> None:
    path = rebuilt(tmp_path, *parts)
    assert torch.equal(load(path).forecast(past_of(RIDGE)), RIDGE.forecast(past_of(RIDGE)))


@pytest.mark.parametrize("trusted", [(), ("numpy.ndarray",), (TREES_TYPE + "s",)])
def test_types_that_are_not_trusted_are_named(trusted: tuple[str, ...], tmp_path: Path) -> None:
    model = fitted(SklearnForecaster(HistGradientBoostingRegressor(max_iter=3)))
    path = save(model, tmp_path / "f.skops")
    told = f"{path} holds types that are not trusted, {TREES_TYPE}: "
    with refuses(FormatError, told, f"pass --trust {TREES_TYPE} (trusted=[...])"):
        load(path, trusted=trusted)
    assert untrusted_types(path) == [TREES_TYPE]
    assert isinstance(load(path, trusted=TREES_TYPE), SklearnForecaster)
    assert isinstance(load(path, trusted=[TREES_TYPE]), SklearnForecaster)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("piped", [False, True])
def test_a_network_needs_no_trust(solver: str, piped: bool, tmp_path: Path) -> None:
    network = MLPRegressor(hidden_layer_sizes=(3,), tol=1e9, solver=solver, random_state=0)
    regressor = make_pipeline(StandardScaler(), network) if piped else network
    model = SklearnForecaster(regressor, scale=1.0)
    path = save(fitted(model), tmp_path / "f.skops")
    assert untrusted_types(path) == []
    assert torch.equal(load(path).forecast(past_of(model)), model.forecast(past_of(model)))


@pytest.mark.parametrize("loader", ["ObjectNode", "FunctionNode", "TypeNode", "PartialNode"])
def test_no_code_of_a_file_is_run(
    loader: str, tmp_path: Path, parts: tuple[str, Members], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even imported: a module that says so when it is."""
    (tmp_path / "hostile_module.py").write_text("open('run', 'w').close()\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    schema = json.loads(parts[0])
    nothing = node("builtins", "str", "JsonNode", content="null")
    inner = dict.fromkeys(("func", "args", "kwds", "namespace"), nothing)
    thing = node("hostile_module", "Thing", loader, content=inner if "P" in loader else None)
    schema["content"]["fitted"]["content"]["content"]["solver"] = thing
    path = rebuilt(tmp_path, schema, parts[1])
    with refuses(FormatError, "hostile_module.Thing", "--trust"):
        load(path)
    read_header(path)
    assert not (tmp_path / "run").exists()


def listed(content: list[Any], **more: Any) -> dict[str, Any]:
    return node("builtins", "list", "ListNode", content=content, **more)


def damaged_schemas(schema: Any) -> dict[str, Any]:
    """What is broken in each, and the schema."""
    fitted_node = schema["content"]["fitted"]
    text = schema["content"]["weightcast"]

    def other(**content: Any) -> dict[str, Any]:
        return schema | {"content": schema["content"] | content}

    deep = node("builtins", "str", "JsonNode", content="[" * 100_000)
    nested = laughs = listed([], __id__=1)
    for _ in range(400):
        nested = listed([nested])
    for level in range(2, 60):
        laughs = listed([laughs, listed([], __id__=level - 1)], __id__=level)
    classifier = node("sklearn.linear_model._ridge", "RidgeClassifier", "ObjectNode")
    sparse = node("scipy.sparse", "spmatrix", "SparseMatrixNode", type="scipy", file="0.npy")
    array = next(n for n in nodes_of(fitted_node) if n["__loader__"] == "NdArrayNode")
    return {
        "no header": schema | {"content": {"fitted": fitted_node}},
        "header a number": other(weightcast=text | {"content": "5"}),
        "header a bomb": other(weightcast=deep),
        "nothing fitted": schema | {"content": {"weightcast": text}},
        "fitted text": other(fitted=text),
        "fitted a bomb": other(fitted=deep),
        "fitted nested": other(fitted=nested),
        "fitted a billion laughs": other(fitted=laughs),
        "fitted a type": other(fitted=node("builtins", "list", "TypeNode")),
        "no regressor": other(fitted=classifier),
        "unknown loader": other(fitted=node("a", "b", "c")),
        "newer": schema | {"protocol": 10**6},
        "no protocol": schema | {"protocol": None},
        "no such array": other(fitted=array | {"file": "9.npy"}),
        "array a list": other(fitted=array | {"file": ["0.npy"]}),
        "numpy.void": other(fitted=array | {"__class__": "void"}),
        "sparse": other(fitted=sparse),
        "array too often": other(fitted=listed([array] * 20_000)),
    }


CASES = [
    "no header", "header a number", "header a bomb", "nothing fitted", "fitted text",
    "fitted a bomb", "fitted nested", "fitted a billion laughs", "fitted a type", "no regressor",
    "unknown loader", "newer", "no protocol", "no such array", "array a list", "numpy.void",
    "sparse", "array too often",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_schema_that_breaks_a_rule_is_refused(
    case: str, tmp_path: Path, parts: tuple[str, Members]
) -> None:
    schemas = damaged_schemas(json.loads(parts[0]))
    assert list(schemas) == CASES
    path = rebuilt(tmp_path, schemas[case], parts[1])
    why = {"numpy.void": "numpy.void", "array too often": "too often", "no regressor": "Ridge"}
    with refuses(FormatError, path, why.get(case, "")):
        load(path)


@pytest.mark.parametrize("schema", ["", "{", "[]", "5", "null", "[" * 100_000])
def test_a_schema_that_is_none_is_refused(
    schema: str, tmp_path: Path, parts: tuple[str, Members]
) -> None:
    path = rebuilt(tmp_path, schema, parts[1])
    with refuses(FormatError, path):
        load(path)


def npy(shape: str, dtype: str = "<f8", data: bytes = b"") -> bytes:
    """An array file whose header may claim anything."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with ZipFile(stream, "w") as file:
        file.writestr("data.npy", content)
    return stream.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        b"",
        npy("(4,)", data=bytes(31)),
        npy("(4,)", data=bytes(33)),
        npy("(1000000000000,)"),
        npy("(1000000000000, 1000000000000, 1000000000000)"),
        npy("(-1, -4)", data=bytes(32)),
        npy("(10000000000000,)", "V0"),
        npy("(1,)", "|O", bytes(8)),
        npy("(1,)", "nonsense", bytes(8)),
        npy("(" * 5000),
        npy("__import__('os').system('touch run')"),
        zipped(npy("(4,)", data=bytes(32))),
    ],
    ids=range(12),
)
def test_an_array_that_claims_what_it_has_not_is_refused(
    array: bytes, tmp_path: Path, parts: tuple[str, Members]
) -> None:
    path = rebuilt(tmp_path, parts[0], parts[1] | {"0.npy": array})
    tracemalloc.start()
    with refuses(FormatError, path):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.parametrize(
    "name", ["../0.npy", "/tmp/0.npy", "a/0.npy", "0.npy.py", "x.pkl", "a\\0.npy"]
)
def test_members_of_other_names_are_refused(
    name: str, tmp_path: Path, parts: tuple[str, Members]
) -> None:
    path = rebuilt(tmp_path, parts[0], parts[1] | {name: npy("(0,)")})
    with refuses(FormatError, path):
        load(path)


def test_a_member_that_is_there_twice_is_refused(
    tmp_path: Path, parts: tuple[str, Members]
) -> None:
    path = rebuilt(tmp_path, *parts)
    with ZipFile(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr("0.npy", npy("(0,)"))
    with refuses(FormatError, path, "twice"):
        load(path)


def test_a_zip_bomb_is_refused(tmp_path: Path, parts: tuple[str, Members]) -> None:
    bomb = npy("(33554432,)", "|u1", bytes(1 << 25))
    path = rebuilt(tmp_path, parts[0], parts[1] | {"9.npy": bomb}, compression=ZIP_DEFLATED)
    tracemalloc.start()
    with refuses(FormatError, path, "compressed"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_members_that_claim_more_than_the_file_are_refused(
    tmp_path: Path, parts: tuple[str, Members]
) -> None:
    """Sizes in the zip's directory, and entries that all point at the same bytes."""
    path = rebuilt(tmp_path, *parts)
    whole = path.read_bytes()
    place = whole.index(b"PK\x01\x02") + 20
    claim = struct.pack("<II", 2**32 - 9, 2**32 - 9)
    path.write_bytes(whole[:place] + claim + whole[place + 8 :])
    with refuses(FormatError, path, "claim more"):
        load(path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_flipped_bytes_in_skops_get_our_errors_only(data: st.DataObject) -> None:
    """In the file, where checksums find them; and in the schema alone, where none does."""
    inside = data.draw(st.booleans())
    with TemporaryDirectory() as folder:
        schema, members = taken_apart(RIDGE, Path(folder))
        path = rebuilt(Path(folder), schema, members)
        content = bytearray(json.dumps(schema).encode() if inside else path.read_bytes())
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content))) :]
        for _ in range(data.draw(st.integers(0, 3)) if content else 0):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 127))
        if inside:
            rebuilt(Path(folder), content.decode(), members)
        else:
            path.write_bytes(content)
        loads_or_refuses(path)


@settings(max_examples=60, deadline=None)
@given(TREES | st.sampled_from(["0.npy", "ObjectNode", "ListNode", "numpy", "ndarray"]), st.data())
def test_hostile_schemas_get_our_errors_only(tree: Any, data: st.DataObject) -> None:
    """Any value in the place of any entry of any node."""
    with TemporaryDirectory() as folder:
        schema, members = taken_apart(RIDGE, Path(folder))
        chosen = data.draw(st.sampled_from(nodes_of(schema)))
        chosen[data.draw(st.sampled_from(sorted(chosen)))] = tree
        loads_or_refuses(rebuilt(Path(folder), schema, members))


@pytest.mark.parametrize("coefficients", [np.ones(3), np.ones((2, 4)), np.array(["a"] * 4), 7.0])
def test_a_regressor_that_does_not_forecast_is_refused(coefficients: Any, tmp_path: Path) -> None:
    model = fitted(SklearnForecaster(Ridge()))
    model.regressor_.coef_ = coefficients
    path = save(model, tmp_path / "f.skops")
    with refuses(FormatError, path, "does not forecast"):
        load(path)


def test_another_scikit_learn_is_warned_of(tmp_path: Path, parts: tuple[str, Members]) -> None:
    import sklearn

    path = rebuilt(tmp_path, parts[0].replace(sklearn.__version__, "0.99.9"), parts[1])
    with pytest.warns(WeightcastWarning, match=r"0\.99\.9"):
        assert isinstance(load(path), SklearnForecaster)


# ---- claims of size


def test_safetensors_that_claim_terabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    claim = {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    text = json.dumps(claim).encode()
    tracemalloc.start()
    for data in (
        struct.pack("<Q", 10**12) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", len(text)) + text + bytes(100),
    ):
        path.write_bytes(data)
        with refuses(FormatError, path):
            load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["f.safetensors", "f.skops"])
def test_a_file_that_is_far_too_large_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    for read in (load, read_header):
        with refuses(FormatError, path, MOST_BYTES):
            read(path)


def test_a_card_that_is_far_too_long_is_refused(tmp_path: Path) -> None:
    with refuses(UsageError, "card"):
        save(FITTED, tmp_path / "f.safetensors", card={"text": "a" * (1 << 24)})
    assert list(tmp_path.iterdir()) == []
