"""The forecasters by name: what there is, and how to make one from options."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor

from weightcast.predictor.baselines import LastValue
from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.introspection import Introspection, LinearIntrospection
from weightcast.predictor.line import Line
from weightcast.predictor.noise import GaussianNoise
from weightcast.predictor.polynomials import LinearFit, QuadraticFit
from weightcast.predictor.regressors import SklearnForecaster
from weightcast.predictor.scaling import KINDS, TARGETS
from weightcast.predictor.wnn import WNN
from weightcast.store import UsageError
from weightcast.store.keyed import check_seed

_GIVEN = ("context", "horizon", "random_state")  # by arguments of their own
_NOTES = {  # of options of our own classes
    "scaling": " or ".join((", ".join(KINDS[:-1]), KINDS[-1])),
    "target": " or ".join(TARGETS),
    "patience": "none takes all steps",
}
_WORDS = {"true": True, "false": False, "none": None}


def _gradient_boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor()


@dataclass(frozen=True)
class Model:
    """A kind of forecaster.

    Attributes
    ----------
    kind : type
        Its class.
    summary : str
        What it is, in a line.
    regressor : callable, optional
        Makes the scikit-learn regressor that a `SklearnForecaster` of this name holds.
    """

    kind: type[Forecaster]
    summary: str
    regressor: Callable[[], Any] | None = None

    def make(self, **options: Any) -> Forecaster:
        """A new one, with options of its class."""
        if self.regressor is None:
            return self.kind(**options)
        return self.kind(self.regressor(), **options)


MODELS: dict[str, Model] = {
    "introspection": Model(Introspection, "two-layer network (Sinha et al. 2017, section 4.1)"),
    "linear-introspection": Model(LinearIntrospection, "the same without its ReLU (section 4.5)"),
    "wnn": Model(WNN, "two-stream network of values and their changes (Jang et al. 2023)"),
    "line": Model(Line, "least squares through a dense recent window; no training"),
    "last-value": Model(LastValue, "a weight stays what it is: the error to beat; no training"),
    "linear-fit": Model(LinearFit, "straight line through the context (section 4.4.2)"),
    "quadratic-fit": Model(QuadraticFit, "parabola through the context (section 4.4.1)"),
    "gaussian-noise": Model(GaussianNoise, "last value plus noise as large as changes are (4.5.1)"),
    "ridge": Model(SklearnForecaster, "scikit-learn's Ridge", Ridge),
    "gradient-boosting": Model(
        SklearnForecaster, "scikit-learn's HistGradientBoostingRegressor", _gradient_boosting
    ),
    "mlp": Model(SklearnForecaster, "scikit-learn's MLPRegressor", MLPRegressor),
}


def make_forecaster(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    context: Any = None,
    horizon: Any = None,
    seed: int = 0,
) -> Forecaster:
    """Make a forecaster by its name.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    options : mapping, optional
        Options of its class; of scikit-learn's, those of the regressor too, as
        ``regressor__alpha`` or, where no other is called so, ``alpha``.
    context, horizon : optional
        As `Forecaster` has them; by default those of the class.
    seed : int
        Of its randomness, unless the options have a `random_state`.

    Returns
    -------
    Forecaster
        Not fitted yet.

    Raises
    ------
    UsageError
        If there is no such model or option, or an option breaks its rule.

    Examples
    --------
    >>> make_forecaster("introspection", {"hidden": 20}).hidden
    20
    >>> make_forecaster("ridge", {"alpha": 2.0}).regressor
    Ridge(alpha=2.0, random_state=0)
    >>> make_forecaster("rigde")
    Traceback (most recent call last):
    weightcast.store.errors.UsageError: no model 'rigde', did you mean 'ridge'? There are ...
    """
    forecaster = model(name).make()
    params = forecaster.get_params(deep=True)
    given = {"context": context, "horizon": horizon}
    settings = {key: value for key, value in given.items() if value is not None}
    for key in ("random_state", "regressor__random_state"):
        if key in params:
            settings[key] = check_seed(seed) % 2**32  # what scikit-learn takes
    for key, value in (options or {}).items():
        place = _place(name, key, params)
        if place in given and given[place] is not None:
            raise UsageError(f"{key} is not an option here: that of the samples is taken")
        settings[place] = _as_whole(params[place], value)
    forecaster.set_params(**settings)
    forecaster.check_options()
    return forecaster


def model(name: str) -> Model:
    """Find a model by its name.

    Raises
    ------
    UsageError
        If there is none: names the nearest, and all.
    """
    if name not in MODELS:
        raise UsageError(f"no model {name!r:.80}{nearest(name, MODELS)}")
    return MODELS[name]


def parse_setting(text: str) -> tuple[str, Any]:
    """Read an option as the command line has it.

    Parameters
    ----------
    text : str
        ``NAME=VALUE``: a number, true, false, none, text (in quotes or without), or several of them
        with commas between.

    Returns
    -------
    tuple of str and value

    Raises
    ------
    UsageError
        If it is not of that form.

    Examples
    --------
    >>> parse_setting("hidden=40"), parse_setting("scale=1e3"), parse_setting("loss='none'")
    (('hidden', 40), ('scale', 1000.0), ('loss', 'none'))
    >>> parse_setting("hidden_layer_sizes=40,20"), parse_setting("early_stopping=true")
    (('hidden_layer_sizes', (40, 20)), ('early_stopping', True))
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not re.fullmatch(r"[A-Za-z]\w*", name) or not value:
        raise UsageError(f"an option is NAME=VALUE, such as hidden=40: got {text!r:.80}")
    parts = re.findall(r"""\s*("[^"]*"|'[^']*'|[^,]*),?""", value)[:-1]  # the last match is empty
    if len(parts) == 1 and not value.endswith(","):
        return name, _value(value)
    return name, tuple(_value(part.strip()) for part in parts)


def describe_models() -> list[dict[str, Any]]:
    """All models as plain data: name, summary, options with their defaults, and notes on options.

    Examples
    --------
    >>> [m["options"] for m in describe_models() if m["name"] == "last-value"]
    [{}]
    """
    described = []
    for name, found in MODELS.items():
        options = _options(found.make().get_params())
        notes = {option: text for option, text in _NOTES.items() if option in options}
        described.append(
            {"name": name, "summary": found.summary, "options": options, "notes": notes}
        )
    return described


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest one, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name)[:80], names, n=1)
    hint = f": did you mean {close[0]!r}?" if close else ":"
    return f"{hint} there are {', '.join(names) or 'none'}"


def _place(name: str, key: str, params: Mapping[str, Any]) -> str:
    """An option's name as `set_params` has it."""
    for place in (key, f"regressor__{key}"):
        if place in params and place != "regressor":
            return place
    raise UsageError(f"{name} has no option {key!r:.80}{nearest(key, _options(params))}")


def _options(params: Mapping[str, Any]) -> dict[str, Any]:
    """Options that a user sets, by their shortest names, and their values."""
    found = {}
    for full, value in params.items():
        short = full.removeprefix("regressor__")
        if short not in _GIVEN and full != "regressor":
            found[full if full != short and short in params else short] = value
    return found


def _as_whole(default: Any, value: Any) -> Any:
    """1e5 where a whole number is the rule."""
    whole = type(default) is int and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def _value(text: str) -> Any:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
