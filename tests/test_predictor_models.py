"""Forecasters by name: made from options, described, and loaded where they need no file."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_reference import refuses

from weightcast.predictor import (
    MODELS,
    Introspection,
    Line,
    LinearFit,
    SklearnForecaster,
    by_name,
    describe_models,
    header_of,
    load,
    load_with_card,
    make_forecaster,
    parse_setting,
    save,
    shipped,
)
from weightcast.predictor.by_name import UNTRAINED
from weightcast.store import InputNotFoundError, UsageError

NAMES = (
    "introspection", "linear-introspection", "wnn", "line", "last-value", "linear-fit",
    "quadratic-fit", "gaussian-noise", "ridge", "gradient-boosting", "mlp",
)  # fmt: skip


# ---- make_forecaster


@pytest.mark.parametrize("name", NAMES)
def test_every_model_can_be_made_and_fitted(name: str) -> None:
    options: dict[str, Any] = {
        "introspection": {"steps": 3},
        "linear-introspection": {"steps": 3},
        "wnn": {"steps": 3},
        "mlp": {"tol": 1e9},
        "gradient-boosting": {"max_iter": 3},
    }
    X = np.random.default_rng(0).uniform(0.1, 1, size=(60, 3)).astype(np.float32)
    context = (1.0, 0.5, 0.0) if name != "line" else ("mean:40/10", "slope:40/10", "ahead")
    more = options.get(name, {}) | ({"window": 40, "stride": 10} if name == "line" else {})
    ahead = 1.5 if name in ("linear-fit", "quadratic-fit") else "+500"
    model = make_forecaster(name, more, context=context, horizon=ahead)
    assert type(model) is MODELS[name].kind
    assert np.isfinite(model.fit(X, X[:, 0]).predict(X)).all()
    assert (model.context_, model.horizon) == (context, ahead)


def test_there_are_these_models_only() -> None:
    assert tuple(MODELS) == NAMES
    assert [m["name"] for m in describe_models()] == list(NAMES)


def test_what_is_not_given_is_the_class_default() -> None:
    assert make_forecaster("introspection").get_params() == Introspection().get_params()
    assert make_forecaster("line").get_params() == Line().get_params()


def test_the_seed_is_that_of_the_network_or_of_the_regressor() -> None:
    assert make_forecaster("introspection", seed=7).random_state == 7
    assert make_forecaster("mlp", seed=7).regressor.random_state == 7
    assert make_forecaster("mlp", {"random_state": 3}, seed=7).regressor.random_state == 3
    assert make_forecaster("introspection", {"random_state": None}, seed=7).random_state is None
    assert not hasattr(make_forecaster("line", seed=7), "random_state")


def test_options_of_the_regressor_by_long_and_short_names() -> None:
    for key in ("alpha", "regressor__alpha"):
        model = make_forecaster("ridge", {key: 0.25, "scale": 8.0})
        assert (model.regressor.alpha, model.scale) == (0.25, 8.0)


def test_a_whole_number_may_be_written_with_an_exponent() -> None:
    model = make_forecaster("introspection", dict([parse_setting("steps=1e5")]))
    assert (model.steps, type(model.steps)) == (100_000, int)
    with refuses(UsageError, "steps", "1.5"):
        make_forecaster("introspection", {"steps": 1.5})


@pytest.mark.parametrize(
    ("name", "near"),
    [("introspektion", "introspection"), ("linearfit", "linear-fit"), ("lin", "line")],
)
def test_an_unknown_name_gets_the_nearest_and_all(name: str, near: str) -> None:
    with refuses(UsageError, repr(name), f"did you mean {near!r}?", "gaussian-noise"):
        make_forecaster(name)


def test_a_name_that_is_near_to_none_gets_all() -> None:
    with refuses(UsageError, "'?'", "there are gaussian-noise") as caught:
        make_forecaster("?")
    assert "did you mean" not in str(caught)


@pytest.mark.parametrize(
    ("name", "option", "near"),
    [
        ("introspection", "hiden", "hidden"),
        ("ridge", "alfa", "alpha"),
        ("ridge", "regressor__alfa", "alpha"),
        ("ridge", "regressor", "random_state"),
        ("line", "windows", "window"),
        ("last-value", "hidden", "there are none"),
        ("introspection", "__class__", "there are"),
    ],
)
def test_an_unknown_option_gets_the_nearest(name: str, option: str, near: str) -> None:
    expected = near if near != "random_state" else "has no option 'regressor'"
    with refuses(UsageError, name, option, expected):
        make_forecaster(name, {option: 1})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("introspection", {"hidden": 0}),
        ("introspection", {"hidden": "forty"}),
        ("introspection", {"context": "nonsense"}),
        ("line", {"horizon": 0.5}),
        ("ridge", {"scale": -1}),
    ],
)
def test_an_option_that_breaks_its_rule_is_refused(name: str, options: dict[str, Any]) -> None:
    with refuses(UsageError, str(next(iter(options.values())))):
        make_forecaster(name, options)


def test_models_are_described_by_what_make_forecaster_takes() -> None:
    for model in describe_models():
        assert json.loads(json.dumps(model["options"])).keys() == model["options"].keys()
        assert len(model["summary"]) < 80
        assert not {"context", "horizon", "random_state", "regressor"} & model["options"].keys()
        made = make_forecaster(model["name"], model["options"])
        assert repr(made) == repr(make_forecaster(model["name"]))


def test_choices_are_described() -> None:
    notes = {model["name"]: model["notes"] for model in describe_models()}
    assert notes["introspection"]["scaling"] == "fixed, tensor or weight"
    assert notes["ridge"]["target"] == "value or change"
    assert notes["last-value"] == {}
    for name in notes:
        for option in ("scaling", "target"):
            if option in notes[name]:
                with refuses(UsageError, notes[name][option].replace(", tensor", " or tensor")):
                    make_forecaster(name, {option: "neither"})


# ---- parse_setting


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("40", 40),
        ("-3", -3),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("none", None),
        ("'none'", "none"),
        ('"40"', "40"),
        ('"a,b"', "a,b"),
        ("lbfgs", "lbfgs"),
        ("40,20", (40, 20)),
        ("40,", (40,)),
        ("1, 0.5 ,t-25,'x,y'", (1, 0.5, "t-25", "x,y")),
        ("a=b", "a=b"),
        ("''", ""),
    ],
)
def test_settings_are_read(text: str, value: Any) -> None:
    name, found = parse_setting(f" hidden = {text} ")
    assert (name, found, type(found)) == ("hidden", value, type(value))


@pytest.mark.parametrize("text", ["", "hidden", "=4", "hidden=", "1a=2", "a b=2", "a.b=2", "-a=2"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with refuses(UsageError, "NAME=VALUE", repr(text)):
        parse_setting(text)


PLAIN = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)


@given(PLAIN | st.lists(PLAIN, min_size=2).map(tuple))
def test_plain_values_come_back_from_their_text(value: Any) -> None:
    """repr is the reference: what Python writes is what is read."""
    text = ",".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
    found = parse_setting(f"a={text}")[1]
    assert (found, type(found)) == (value, type(value))


@given(st.text(max_size=30))
def test_any_text_is_a_setting_or_refused(text: str) -> None:
    with suppress(UsageError):
        assert parse_setting(text)[0] == text.partition("=")[0].strip()


def test_a_number_of_many_digits_is_text() -> None:
    """Python reads no integer of more than 4,300 digits."""
    assert parse_setting("a=" + "9" * 5000)[1] in (float("inf"), "9" * 5000)


# ---- by name


@pytest.mark.parametrize("name", UNTRAINED)
def test_models_without_training_are_loaded_by_name(name: str) -> None:
    model, card = load_with_card(name)
    assert type(model) is MODELS[name].kind
    assert card == {}
    assert model.forecast(torch.ones(model.n_features_in_, 2)).shape == (2,)
    assert header_of(name).context == model.context_


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pretrained files with one in it."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    X = np.zeros((3, 4), np.float32)
    network = Introspection(steps=1, hidden=2).fit(X, X[:, 0])
    save(network, folder / "introspection-test.safetensors", card={"note": "shipped"})
    monkeypatch.setattr(by_name, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_pretrained_forecasters_are_loaded_by_name(folder: Path) -> None:
    model, card = load_with_card("introspection-test")
    assert (type(model), card) == (Introspection, {"note": "shipped"})
    assert header_of("introspection-test").card == card
    assert list(shipped()) == ["introspection-test"]


def test_a_file_wins_over_a_name(folder: Path) -> None:
    for name in ("introspection-test", "line"):
        save(LinearFit(), "file.safetensors", overwrite=True)
        Path("file.safetensors").rename(name)
        assert isinstance(load(name), LinearFit)
        assert header_of(name).model == "linear-fit"


def test_a_folder_does_not_hide_a_name(folder: Path) -> None:
    for name, kind in (("introspection-test", Introspection), ("line", Line)):
        Path(name).mkdir()
        assert isinstance(load(name), kind)


@pytest.mark.parametrize("name", ["introspektion-test", "pretrained/introspection-test", "../line"])
def test_an_unknown_name_is_not_found(name: str, folder: Path) -> None:
    near = {"introspektion-test": "did you mean 'introspection-test'?"}.get(name, "line")
    for read in (load, header_of):
        with refuses(InputNotFoundError, name, near, "weightcast fit"):
            read(name)


def test_every_shipped_forecaster_loads_and_has_a_card() -> None:
    for name in shipped():
        model, card = load_with_card(name)
        assert not isinstance(model, SklearnForecaster)
        assert card["errors"]
        assert card["command"]


@pytest.mark.parametrize(("key", "value"), [("context", ("ahead", "step", 1)), ("horizon", 3.0)])
def test_what_the_samples_say_is_no_option(key: str, value: Any) -> None:
    """Else a forecaster would be fitted to columns under other columns' names."""
    given = {"context": ("step", "ahead", 1.0), "horizon": "+100"}
    with refuses(UsageError, key, "not an option here"):
        make_forecaster("introspection", {key: value}, **given)  # type: ignore[arg-type]


def test_any_seed_of_a_dataset_is_a_seed_of_a_forecaster() -> None:
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    for name in ("ridge", "gaussian-noise"):
        make_forecaster(name, seed=2**64 - 1).fit(X, X[:, 0])
    with refuses(UsageError, "seed", -1):
        make_forecaster("ridge", seed=-1)


@pytest.mark.parametrize("name", ["introspection", "gaussian-noise"])
@pytest.mark.parametrize("state", ["abc", -1, 1.5, 2**32])
def test_a_random_state_that_is_none_is_refused(name: str, state: Any) -> None:
    with refuses(UsageError, "random_state", repr(state)):
        make_forecaster(name, {"random_state": state}).fit(np.ones((3, 4)), np.ones(3))


def test_a_layer_of_wnn_fits_into_memory() -> None:
    with refuses(UsageError, "hidden", 4097):
        make_forecaster("wnn", {"hidden": 4097})
    assert make_forecaster("introspection", {"hidden": 4097})
