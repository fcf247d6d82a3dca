"""What a run of an experiment measured, and the JSON file that it stands in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from weightcast.store import FormatError, InputNotFoundError
from weightcast.store.output import replacing

VERSION = 1


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


def write_result(result: RunResult, path: Path) -> None:
    """Write a run's file, or replace it, at once and whole."""
    text = json.dumps({"version": VERSION, **asdict(result)}, indent=None)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")


def read_result(path: Path) -> RunResult:
    """Read a run's file.

    Raises
    ------
    InputNotFoundError
        If there is none.
    FormatError
        If it is not one, or of a version that this weightcast does not know.
    """
    try:
        found = json.loads(path.read_text())
        if found.pop("version") != VERSION:
            raise FormatError(f"{path} has another version than {VERSION}: run it again")
        traces = {str(name): Trace(**trace) for name, trace in found.pop("traces").items()}
        return RunResult(**found, traces=traces)
    except FileNotFoundError as error:
        raise InputNotFoundError(f"no result {path}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path} is not the result of a run: {error}") from error
