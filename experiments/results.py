"""What a run of an experiment measured, and the JSON file that it stands in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from weightcast.store import FormatError, InputNotFoundError
from weightcast.store.output import write_text

VERSION = 1

# What a file of something else, or of wrong kinds, raises on the way.
_DAMAGED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_CURVES = ("loss", "accuracy", "top5", "seconds")  # over the steps
_NAMES = {json.dumps(y): y for y in (math.nan, math.inf, -math.inf)}
_KINDS: dict[str, tuple[type, ...]] = {
    "experiment": (str,),
    "arm": (str,),
    "seed": (int,),
    "made": (dict,),
    "jumps": (list,),
    "events": (list,),
    "seconds": (int, float),
    "forecast_seconds": (int, float),
    "peak": (int, float, type(None)),
}


@dataclass
class Trace:
    """One curve: what the evaluations of a run gave.

    Attributes
    ----------
    steps : list of int
        Optimizer steps before each evaluation; the first is 0.
    loss, accuracy : list of float
        Mean cross-entropy and share of correct answers on the images that judge.
    top5 : list of float
        Share of answers among whose best five is the right one; empty below 20 classes.
    seconds : list of float
        Processor seconds of the training up to there, forecasts included, evaluations not.
    """

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    top5: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class RunResult:
    """A run: one arm with one seed.

    Attributes
    ----------
    experiment, arm : str
    seed : int
        Of the initial weights, the batches and dropout.
    made : dict
        What the run depends on but for code, as JSON: the experiment's entry, data digests, the
        peak. A run that was made otherwise is not taken up again.
    traces : dict of str to Trace
        By arm: the run's own, and "averaging" beside "plain".
    jumps : list of int
        Jump points that were taken and stayed.
    events : list of str
        What happened to the jumps, in words.
    seconds, forecast_seconds : float
        Processor time of the training; and by the clock, that of the snapshots and jumps in it.
    peak : float or None
        Highest learning rate of its one-cycle schedule.
    """

    experiment: str
    arm: str
    seed: int
    made: Mapping[str, Any]
    traces: dict[str, Trace]
    jumps: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    seconds: float = 0.0
    forecast_seconds: float = 0.0
    peak: float | None = None


def file_name(arm: str, seed: int, suffix: str = ".json") -> str:
    """Name of a run's file: letters, digits, points and dashes only.

    Examples
    --------
    >>> file_name("one-cycle + jumps", 0)
    'one-cycle-jumps-seed0.json'
    """
    return f"{'-'.join(re.findall(r'[a-z0-9.]+', arm.lower()))}-seed{seed}{suffix}"


def others(names: Iterable[str]) -> str:
    """What something was made with, where that differs, in words.

    Examples
    --------
    >>> others(["data", "seed"])
    'other data and another seed'
    """
    words = dict.fromkeys(name.removesuffix("_sha256") for name in names)
    return " and ".join(f"{'other' if n in ('data', 'steps') else 'another'} {n}" for n in words)


def write_result(result: RunResult, path: Path) -> None:
    """Write a run's file, or replace it, at once and whole.

    JSON has no NaN and no infinity: in curves, their names stand for them.
    """
    whole = {"version": VERSION, **asdict(result)}
    for trace in whole["traces"].values():
        for name in _CURVES:
            trace[name] = [y if math.isfinite(y) else json.dumps(y) for y in trace[name]]
    text = json.dumps(whole, allow_nan=False)
    write_text(path, text + "\n")


def read_result(path: Path) -> RunResult:
    """Read a run's file.

    Raises
    ------
    InputNotFoundError
        If there is none.
    FormatError
        If it is not one, is damaged, or of a version that this weightcast does not know.
    """
    try:
        found = json.loads(path.read_text())
        if found.pop("version") != VERSION:
            raise ValueError(f"it has another version than {VERSION}")
        traces = {name: trace_of(name, trace) for name, trace in found.pop("traces").items()}
        result = RunResult(**found, traces=traces)
        _check(result)
    except FileNotFoundError as error:
        raise InputNotFoundError(f"no result {path}") from error
    except _DAMAGED as error:
        why = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{path} is not the result of a run, or damaged: {why}: remove it to run it again"
        ) from error
    return result


def trace_of(name: str, found: dict[str, Any]) -> Trace:
    """A curve of a file.

    Raises
    ------
    TypeError, ValueError
        If it is none, or empty or ragged.
    """
    trace = Trace(**found)
    for curve, values in vars(trace).items():
        kinds = (int, float) if curve in _CURVES else (int,)
        _require(f"{curve} of {name!r}", values, list)
        if curve in _CURVES:
            values[:] = [_NAMES.get(y, y) if type(y) is str else y for y in values]
        for value in values:
            _require(f"{curve} of {name!r}", value, *kinds)
    lengths = {len(v) for v in (trace.steps, trace.loss, trace.accuracy, trace.seconds)}
    if len(lengths) > 1 or not trace.steps or len(trace.top5) not in (0, len(trace.steps)):
        raise ValueError(f"the curve of {name!r} is empty or ragged")
    return trace


def _check(result: RunResult) -> None:
    """Check the kinds of what else is in a file; what it was made with is compared, not used."""
    for name, kinds in _KINDS.items():
        _require(name, getattr(result, name), *kinds)
    _require("data in made", result.made.get("data", {}), dict)
    for step in result.jumps:
        _require("jumps", step, int)
    for event in result.events:
        _require("events", event, str)
    if result.arm not in result.traces:
        raise ValueError(f"it has no curve of its arm {result.arm!r}")


def _require(what: str, value: object, *kinds: type) -> None:
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{what} must be {wanted}, not {type(value).__name__}")
    if type(value) is int:
        float(value)  # raises an error where it has hundreds of digits
