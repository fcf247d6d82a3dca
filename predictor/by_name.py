"""Forecasters by name: shipped with the package, or such as need no training."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from weightcast.predictor import files
from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.headers import Header
from weightcast.predictor.models import make_forecaster, nearest
from weightcast.store import InputNotFoundError, UsageError

FOLDER = Path(__file__).parent / "pretrained"
UNTRAINED = ("line", "last-value", "linear-fit", "quadratic-fit")


def load(name_or_path: str | Path, *, trusted: Collection[str] = ()) -> Forecaster:
    """Load a forecaster: of a file, or by name.

    Parameters
    ----------
    name_or_path : str or Path
        A file that `save` wrote; or, where there is no such file, the name of a pretrained
        forecaster, such as ``introspection-mnist``, or of a model that needs no training, such as
        ``line``. A file wins over a name.
    trusted : collection of str
        Of a .skops file: types that may be made from it beside those that skops trusts itself, as
        ``module.Class``. Name only what you know, and only for files of people you trust: these
        types were not made to be read from strangers' files.

    Returns
    -------
    Forecaster
        Fitted.

    Raises
    ------
    InputNotFoundError
        If there is no such file, and nothing of that name.
    FormatError
        If the file is truncated, not a forecaster, of a newer format, or holds types that are not
        trusted.
    MissingExtraError
        If it needs skops, and that is not installed.

    Examples
    --------
    >>> load("linear-fit").context_
    (1.0, 0.7, 0.4, 0.0)
    """
    forecaster, _ = load_with_card(name_or_path, trusted=trusted)
    return forecaster


def load_with_card(
    name_or_path: str | Path, *, trusted: Collection[str] = ()
) -> tuple[Forecaster, dict[str, Any]]:
    """Load a forecaster and its card; everything else as for `load`."""
    name = str(name_or_path)
    if name in UNTRAINED and not Path(name).is_file():
        return make_forecaster(name).ready(), {}
    return files.load_with_card(find(name_or_path), trusted=trusted)


def header_of(name_or_path: str | Path) -> Header:
    """What is known of a forecaster without loading it; errors as for `load`.

    No type has to be trusted for it.

    Examples
    --------
    >>> header_of("line").context
    ('mean:800/25', 'slope:800/25', 'ahead')
    """
    name = str(name_or_path)
    if name in UNTRAINED and not Path(name).is_file():
        return Header.of(make_forecaster(name))
    return files.read_header(find(name_or_path))


def find(name_or_path: str | Path) -> Path:
    """The file of a forecaster that is given by a path, or by the name of a pretrained one.

    Raises
    ------
    InputNotFoundError
        If there is none.
    UsageError
        If the name is of a model that needs no training, and so has no file.
    """
    path, name = Path(name_or_path), str(name_or_path)
    ours = shipped()
    if path.is_file() or name not in (*ours, *UNTRAINED):
        if not path.exists():
            raise InputNotFoundError(
                f"no forecaster file {path}, and nothing pretrained of that name"
                f"{nearest(name, (*ours, *UNTRAINED))}; fit one with 'weightcast fit DATASET -o "
                "FILE'"
            )
        return path
    if name in UNTRAINED:
        raise UsageError(f"{name} needs no training, and has no file: use it by its name")
    return ours[name]


def shipped() -> dict[str, Path]:
    """Files of the forecasters that are shipped, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}
