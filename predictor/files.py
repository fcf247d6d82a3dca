"""Forecasters in files: safetensors, with everything else as JSON in its header. No pickle."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from weightcast.predictor.baselines import LastValue, LinearFit
from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.introspection import Introspection
from weightcast.store import FormatError, InputNotFoundError, UsageError
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.reading import DAMAGE, one_line
from weightcast.store.recipe import check_context

FORECASTER_VERSION = 1
MODELS: dict[str, type[Forecaster]] = {
    "introspection": Introspection,
    "last-value": LastValue,
    "linear-fit": LinearFit,
}


def save(
    forecaster: Forecaster,
    path: str | Path,
    *,
    card: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a fitted forecaster.

    Parameters
    ----------
    forecaster : Forecaster
        One of `MODELS`, fitted.
    path : str or Path
        File to write.
    card : dict, optional
        Where it comes from and what it was measured to do; JSON-able.
    overwrite : bool
        Replace a file that stands at `path`.

    Returns
    -------
    Path

    Raises
    ------
    OutputExistsError
        If `path` is taken.
    UsageError
        If it is a forecaster of another kind.

    Examples
    --------
    >>> import tempfile
    >>> load(save(LinearFit(), tempfile.mkdtemp() + "/line.safetensors"))
    LinearFit()
    """
    path = refuse_existing(path, overwrite=overwrite, kind="file")
    names = [name for name, model in MODELS.items() if type(forecaster) is model]
    if not names:
        known = ", ".join(model.__name__ for model in MODELS.values())
        raise UsageError(f"only {known} can be saved: got {type(forecaster).__name__}")
    header = {
        "format": FORECASTER_VERSION,
        "model": names[0],
        "parameters": {name: _plain(v) for name, v in forecaster.get_params().items()},
        "context": forecaster.ready().context_,
        "versions": {"weightcast": importlib.metadata.version("weightcast")},
        "card": card or {},
    }
    try:
        text = json.dumps(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"a forecaster's card must be JSON-able: {one_line(error)}") from error
    with replacing(path) as temporary:
        save_file(forecaster.tensors(), temporary, metadata={"weightcast": text})
    return path


def _plain(value: Any) -> Any:
    """An option as JSON has it; a random generator cannot be kept, its result can."""
    if isinstance(value, np.generic):
        return value.item()
    return None if isinstance(value, np.random.RandomState) else value


def load(path: str | Path) -> Forecaster:
    """Load a forecaster that `save` wrote.

    Raises
    ------
    InputNotFoundError
        If there is no such file.
    FormatError
        If it is truncated, not a forecaster, or of a newer format.
    """
    forecaster, _ = load_with_card(path)
    return forecaster


def load_with_card(path: str | Path) -> tuple[Forecaster, dict[str, Any]]:
    """Load a forecaster and its card; errors as for `load`."""
    path = Path(path)
    if not path.is_file():
        raise InputNotFoundError(f"no forecaster file {path}: make one with 'weightcast fit'")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"{path} is not a safetensors file, or is truncated: {error}") from error
    if "weightcast" not in metadata:
        raise FormatError(f"{path} is a safetensors file, but not a weightcast forecaster")
    try:
        header = json.loads(metadata["weightcast"])
        forecaster = _build(header)
        forecaster.load_tensors(tensors)
        return forecaster, dict(header.get("card", {}))
    except DAMAGE as error:
        raise FormatError(
            f"{path} is not a forecaster this weightcast reads: {one_line(error)}"
        ) from error


def _build(header: Any) -> Forecaster:
    version, name = header["format"], header["model"]
    if version != FORECASTER_VERSION:
        raise FormatError(f"format {version!r}, this one reads {FORECASTER_VERSION}: upgrade it")
    if name not in MODELS:
        raise FormatError(f"unknown model {name!r}")
    parameters = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in header["parameters"].items()
    }
    forecaster = MODELS[name](**parameters)
    forecaster.check_options()
    context = header["context"]
    if not isinstance(context, list) or not all(type(f) in (int, float) for f in context):
        raise FormatError(f"its context is {context!r}")
    check_context(tuple(context))
    if forecaster.fractions(len(context)) != tuple(context):
        raise FormatError(f"its context is {context!r}, but {forecaster.context} in its options")
    forecaster.context_ = tuple(float(f) for f in context)
    forecaster.n_features_in_ = len(context)
    return forecaster
