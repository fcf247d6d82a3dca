"""Optional dependencies: there, or an error that says which extra to install."""

from __future__ import annotations

import importlib
from typing import Any

from weightcast.store.errors import MissingExtraError


def require_matplotlib() -> None:
    """Find out, before any work that ends in a picture, that one can be drawn.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    _require("matplotlib.figure", "pictures need matplotlib", "plot")


def require_pyarrow() -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises
    ------
    MissingExtraError
        If pyarrow is not installed.
    """
    parquet = _require("pyarrow.parquet", "Parquet files need pyarrow", "parquet")
    return importlib.import_module("pyarrow"), parquet


def require_pillow() -> Any:
    """The module ``PIL.Image``.

    Raises
    ------
    MissingExtraError
        If Pillow is not installed.
    """
    return _require("PIL.Image", "image files need Pillow", "images")


def require_skops() -> Any:
    """The module ``skops.io``.

    Raises
    ------
    MissingExtraError
        If skops is not installed.
    """
    return _require("skops.io", "scikit-learn forecasters in files need skops", "skops")


def require_hub() -> Any:
    """The module ``huggingface_hub``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    return _require("huggingface_hub", "hf:// addresses need huggingface_hub", "hub")


def _require(module: str, need: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{need}: install weightcast with the extra '{extra}', as in "
            f"pip install 'weightcast[{extra}]'"
        ) from error
