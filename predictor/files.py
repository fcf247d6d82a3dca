"""Forecasters in files: safetensors, or .skops for scikit-learn's; and a JSON header. No pickle.

::

    f.safetensors   metadata "weightcast": the header; tensors: what was learned
    f.skops         the header, and the fitted regressor; see `skops_files`
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes

from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.headers import SKLEARN, Header
from weightcast.predictor.regressors import SklearnForecaster
from weightcast.predictor.skops_files import UntrustedError, dumped, restored, strangers, vetted
from weightcast.store import FormatError, InputNotFoundError, UsageError
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.reading import DAMAGE, one_line

Made = TypeVar("Made")
SUFFIXES = (".safetensors", ".skops")
MOST_BYTES = 1 << 30  # of a file: those of networks have kilobytes, a large forest has 100 MB
_ANY_DAMAGE = (*DAMAGE, BadZipFile, MemoryError, SafetensorError)


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
        File to write: .safetensors, or .skops for a `SklearnForecaster`.
    card : dict, optional
        Where it comes from and what it was measured to do; JSON-able. See `make_card`.
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
        If it is a forecaster of another kind, or the suffix is of another kind of forecaster.
    MissingExtraError
        If it needs skops, and that is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.predictor import LinearFit, load
    >>> load(save(LinearFit(), tempfile.mkdtemp() + "/line.safetensors"))
    LinearFit()
    """
    path = refuse_existing(path, overwrite=overwrite, kind="file")
    header = Header.of(forecaster, card)
    check_suffix(path, header)
    text = header.text()
    if isinstance(forecaster, SklearnForecaster):
        data = dumped(text, forecaster.regressor_)
    else:
        data = tensors_to_bytes(forecaster.tensors(), {"weightcast": text})
    if len(data) > MOST_BYTES:
        raise UsageError(f"a forecaster's file can have {MOST_BYTES} bytes: this has {len(data)}")
    with replacing(path) as temporary:
        temporary.write_bytes(data)  # safetensors itself makes a file that only its owner may read
    return path


def check_suffix(path: Path, header: Header) -> None:
    """Check that a file's name fits the kind of forecaster: `UsageError` if not."""
    suffix = SUFFIXES[header.model == SKLEARN]
    if path.suffix != suffix:
        raise UsageError(
            f"a file of a {header.model} forecaster is named *{suffix}: got {path}; name it "
            f"{path.stem or 'forecaster'}{suffix}"
        )


def load_with_card(
    path: str | Path, *, trusted: Collection[str] = ()
) -> tuple[Forecaster, dict[str, Any]]:
    """Load a forecaster that `save` wrote, and its card.

    Parameters
    ----------
    path : str or Path
    trusted : collection of str
        Of a .skops file: types that may be made from it beside those that skops trusts itself, as
        ``module.Class``.

    Raises
    ------
    InputNotFoundError
        If there is no such file.
    FormatError
        If it is truncated, not a forecaster, of a newer format, or holds types that are not
        trusted.
    MissingExtraError
        If it needs skops, and that is not installed.
    """
    return _read(Path(path), _forecaster, (trusted,) if isinstance(trusted, str) else trusted)


def read_header(path: str | Path) -> Header:
    """Read what a file says of its forecaster, and make nothing of the rest; errors as above."""
    return _read(Path(path), _header, ())


def untrusted_types(path: str | Path) -> list[str]:
    """Types that a file needs to be trusted for; nothing is made of them.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    list of str
        As `load` takes them for `trusted`, and as the file spells them; none of a .safetensors
        file, and none of those that skops trusts itself.

    Raises
    ------
    InputNotFoundError
        If there is no such file.
    FormatError
        If it is no forecaster's.
    MissingExtraError
        If it needs skops, and that is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.predictor import LinearFit
    >>> untrusted_types(save(LinearFit(), tempfile.mkdtemp() + "/line.safetensors"))
    []
    """
    return _read(Path(path), _strangers, ())


def _read(
    path: Path, make: Callable[[Path, Collection[str]], Made], trusted: Collection[str]
) -> Made:
    if not path.is_file():
        raise InputNotFoundError(f"no forecaster file {path}: make one with 'weightcast fit'")
    if path.stat().st_size > MOST_BYTES:
        raise FormatError(f"{path} is not a forecaster: it has more than {MOST_BYTES} bytes")
    what = "a .skops file" if path.suffix == ".skops" else "a safetensors file"
    try:
        return make(path, trusted)
    except UntrustedError as error:
        raise UntrustedError(f"{path} {one_line(error):.1500}") from error
    except (BadZipFile, SafetensorError) as error:
        raise FormatError(f"{path} is not {what}, or is truncated: {one_line(error)}") from error
    except _ANY_DAMAGE as error:
        raise FormatError(
            f"{path} is not a forecaster this weightcast reads: {one_line(error):.1000}"
        ) from error


def _strangers(path: Path, trusted: Collection[str]) -> list[str]:
    _header(path, trusted)
    return strangers(vetted(path.read_bytes())[1]) if path.suffix == ".skops" else []


def _header(path: Path, trusted: Collection[str]) -> Header:
    if path.suffix == ".skops":
        return Header.read(vetted(path.read_bytes())[0])
    with safe_open(path, framework="pt") as file:
        return _metadata(file)


def _forecaster(path: Path, trusted: Collection[str]) -> tuple[Forecaster, dict[str, Any]]:
    if path.suffix == ".skops":
        return _from_skops(path.read_bytes(), trusted)
    with safe_open(path, framework="pt") as file:
        header = _metadata(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    forecaster = header.build()
    forecaster.load_tensors(tensors)
    if forecaster.tensors().keys() != tensors.keys():
        raise FormatError(f"it has other tensors than a {header.model} forecaster")
    forecaster.forecast(torch.ones(len(header.context), 1))
    return forecaster, header.card


def _metadata(file: Any) -> Header:
    metadata = file.metadata() or {}
    if "weightcast" not in metadata:
        raise FormatError("a safetensors file, but not a weightcast forecaster")
    return Header.read(metadata["weightcast"])


def _from_skops(data: bytes, trusted: Collection[str]) -> tuple[Forecaster, dict[str, Any]]:
    from sklearn.base import clone, is_regressor

    text, clean = vetted(data)
    header = Header.read(text)
    fitted = restored(clean, trusted)
    try:
        if not is_regressor(fitted):
            raise FormatError(f"it holds a {type(fitted).__name__}, and no regressor")
        forecaster: Any = header.build(regressor=clone(fitted))
        forecaster.regressor_ = fitted
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that nobody asked for
            forecaster.predict(np.ones((1, len(header.context)), np.float32))
    except Exception as error:  # an attribute of the regressor may be anything
        raise FormatError(f"its regressor does not forecast: {one_line(error):.500}") from error
    return forecaster, header.card
