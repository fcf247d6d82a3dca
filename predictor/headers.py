"""What a forecaster's file says of it in JSON: its model, options, context, versions and card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.models import MODELS, nearest
from weightcast.predictor.regressors import SklearnForecaster
from weightcast.store import FormatError, UsageError
from weightcast.store.columns import Entry
from weightcast.store.context import Context
from weightcast.store.horizon import Horizon
from weightcast.store.reading import one_line

FORECASTER_VERSION = 2
SKLEARN = "scikit-learn"  # any regressor; which one, the file itself says
KINDS: dict[str, type[Forecaster]] = {
    **{name: model.kind for name, model in MODELS.items() if model.regressor is None},
    SKLEARN: SklearnForecaster,
}
_PACKAGES = ("weightcast", "numpy", "scikit-learn", "torch")
_MOST_TEXT = 1 << 24


@dataclass(frozen=True)
class Header:
    """What is known of a saved forecaster without loading what it learned.

    Attributes
    ----------
    model : str
        Name of its kind in `KINDS`.
    parameters : dict
        Options of its class, in plain form; of scikit-learn's, those beside the regressor.
    context : tuple of float and str
        The context that it was fitted for.
    regressor : str
        Of scikit-learn's: the regressor, as text.
    versions : dict of str
        Of the packages that made it.
    card : dict
        Where it comes from and what it was measured to do.
    """

    model: str
    parameters: dict[str, Any]
    context: tuple[Entry, ...]
    regressor: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, forecaster: Forecaster, card: Mapping[str, Any] | None = None) -> Header:
        """Describe a fitted forecaster.

        Raises
        ------
        UsageError
            If it is of no kind that can be saved.
        """
        name = next((n for n, kind in KINDS.items() if type(forecaster) is kind), None)
        if name is None:
            known = ", ".join(kind.__name__ for kind in KINDS.values())
            raise UsageError(f"only {known} can be saved: got {type(forecaster).__name__}")
        options = forecaster.ready().get_params(deep=False)
        regressor = options.pop("regressor", None)
        return cls(
            name,
            {key: _plain(value) for key, value in options.items()},
            forecaster.context_,
            "" if regressor is None else " ".join(repr(regressor).split())[:500],
            {package: version(package) for package in _PACKAGES},
            dict(card or {}),
        )

    def text(self) -> str:
        """As the file has it.

        Raises
        ------
        UsageError
            If an option or the card is not plain data, or too long.
        """
        try:
            text = json.dumps({"format": FORECASTER_VERSION, **asdict(self)})
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"a forecaster's options and card must be JSON-able: {one_line(error)}"
            ) from error
        if len(text) > _MOST_TEXT:
            raise UsageError(f"a forecaster's card can have {_MOST_TEXT} letters: got {len(text)}")
        return text

    @classmethod
    def read(cls, text: str) -> Header:
        """Read what `text` gave; anything else gives `FormatError`, or one of `DAMAGE`."""
        if len(text) > _MOST_TEXT:
            raise FormatError(f"its header has {len(text)} letters")
        document = json.loads(text)
        found, name = document["format"], document["model"]
        if type(found) is not int or not 1 <= found <= FORECASTER_VERSION:
            raise FormatError(
                f"format {found!r:.40}, this one reads up to {FORECASTER_VERSION}: upgrade it"
            )
        if not isinstance(name, str) or name not in KINDS:
            raise FormatError(f"unknown model {name!r:.80}{nearest(name, KINDS)}")
        context = document["context"]
        if not isinstance(context, list):
            raise FormatError(f"its context is {context!r:.80}")
        entries = Context.of(tuple(context)).entries
        if len(entries) != len(context):
            raise FormatError(f"its context is {context!r:.80}")
        return cls(
            name,
            {key: _given(value) for key, value in document["parameters"].items()},
            entries,
            str(document.get("regressor", "")),
            dict(document.get("versions", {})),
            dict(document.get("card", {})),
        )

    def build(self, **more: Any) -> Forecaster:
        """A forecaster of its kind that has learned nothing yet.

        Parameters
        ----------
        **more
            Options that are not in the header: scikit-learn's regressor.
        """
        forecaster = KINDS[self.model](**self.parameters, **more)
        forecaster.check_options()
        if forecaster.settled(len(self.context)) != self.context:
            raise FormatError(
                f"its context is {self.context!r:.200}, by its options {forecaster.context!r:.200}"
            )
        forecaster.context_ = self.context
        forecaster.n_features_in_ = len(self.context)
        return forecaster


def _plain(value: Any) -> Any:
    """An option as JSON has it; a random generator cannot be kept, its result can."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Horizon):
        return value.plain
    if isinstance(value, Context):
        return list(value.entries)
    if isinstance(value, np.random.RandomState | np.random.Generator):
        return None
    if isinstance(value, Iterable) and not isinstance(value, str | dict):
        return [_plain(v) for v in value]
    return value


def _given(value: Any) -> Any:
    """An option as `fit` takes it: what JSON has as a list is a tuple."""
    return tuple(_given(v) for v in value) if isinstance(value, list) else value
