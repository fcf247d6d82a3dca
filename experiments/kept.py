"""Numbers kept in a JSON file, with what they were made of: they are not taken for others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from weightcast.experiments.results import others
from weightcast.store import FormatError, InputNotFoundError, OutputExistsError
from weightcast.store.output import write_text

VERSION = 1
RECORDED = "recorded steps"  # in what numbers were made of: more than are wanted do no harm


def keep(path: Path, made: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    """Write numbers, or replace them, at once and whole; NaN is written as null.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.json")
    >>> keep(path, {"seed": 0}, {"accuracy": [0.1, float("nan")]})
    >>> kept(path, {"seed": 0})
    {'accuracy': [0.1, None]}
    """
    versions = {name: version(name) for name in ("weightcast", "torch")}
    whole = {"version": VERSION, "made": made, "versions": versions, "numbers": numbers}
    write_text(path, json.dumps(_finite(whole), allow_nan=False) + "\n")


def kept(path: Path, made: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Read the numbers at `path`; None if there are none.

    Raises
    ------
    OutputExistsError
        If they were made otherwise: they are not ours to replace. Versions may differ, and more
        steps may be recorded.
    FormatError
        If the file is damaged, or of a version that this weightcast does not know.
    """
    try:
        whole = json.loads(path.read_text())
        if whole["version"] != VERSION:
            raise FormatError(f"{path} has another version than {VERSION}: run it again")
        found, numbers = whole["made"], whole["numbers"]
        if not (isinstance(found, dict) and isinstance(numbers, dict)):
            raise TypeError("no numbers")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            f"{path} does not hold numbers of a study, remove it to run it again: {error}"
        ) from error
    if made is not None:
        _refuse_other(path, json.loads(json.dumps(_finite(made))), found)
    return numbers


def required(path: Path) -> dict[str, Any]:
    """The numbers at `path`.

    Raises
    ------
    InputNotFoundError
        If there are none.
    """
    if (numbers := kept(path)) is None:
        raise InputNotFoundError(f"no numbers at {path}")
    return numbers


def _refuse_other(path: Path, made: dict[str, Any], found: dict[str, Any]) -> None:
    differ = [key for key in sorted({*made, *found}) if made.get(key) != found.get(key)]
    if RECORDED in differ and isinstance(there := found.get(RECORDED), list):
        differ.remove(RECORDED)
        if lacking := [step for step in made.get(RECORDED, ()) if step not in there]:
            raise OutputExistsError(
                f"{path} has the recorded steps {there}, without {lacking}: give another results "
                "folder, or remove the file to train it again and record all that are asked for"
            )
    if differ:
        raise OutputExistsError(
            f"{path} was made with {others(differ)}: give another results folder, "
            "or remove the file to run it again"
        )


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
