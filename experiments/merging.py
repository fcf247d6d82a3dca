"""All runs of an experiment in one compact JSON file, which documents are made from.

::

    RESULTS/mnist1/ARM-seedN.json, ...  --gather-->  runs  --compact-->  docs/.../mnist1.json
                                                     runs  <--expand---
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from weightcast.experiments.agreement import require_alike
from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.experiment import Arm, Experiment, Rate, Updates
from weightcast.experiments.results import RunResult, read_result, trace_of
from weightcast.store import FormatError

VERSION = 1
BUDGETS = ("paper", "quick")  # others are runs that tune
_DIGITS = 5


@dataclass(frozen=True)
class RunSet:
    """The runs of one experiment, at one length.

    Attributes
    ----------
    entry : Experiment
        What was run, with title, claims and notes as they are in the catalogue now.
    runs : tuple of RunResult
        In the order of the entry's arms, then of seeds.
    data : str
        What the data are.
    stale : tuple of str
        Names of what the catalogue says otherwise by now.
    own : tuple of str
        Names of arms that the experiment in the catalogue has not: those of a user's forecasters.
    """

    entry: Experiment
    runs: tuple[RunResult, ...]
    data: str
    stale: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


def gather(
    folder: Path,
    names: Iterable[str] = (),
    told: Callable[[str], object] | None = None,
) -> dict[str, list[RunResult]]:
    """The runs in a folder of results, by the name of the folder that theirs is called.

    Parameters
    ----------
    folder : Path
    names : iterable of str
        Of folders in it: only these, and by default all.
    told : callable, optional
        Called with a line for each experiment that is left out, as it has a damaged file. By
        default that is an error.

    Raises
    ------
    FormatError
        If a file is not the result of a run.
    """
    found: dict[str, list[RunResult]] = {}
    for place in [folder / name for name in names] or sorted(folder.glob("*/")):
        try:
            runs = _runs_in(place)
        except FormatError as error:
            if told is None:
                raise
            told(f"left out {place.name}: {error}")
            continue
        for result in runs:
            found.setdefault(_folder(result), []).append(result)
    return found


def _runs_in(place: Path) -> list[RunResult]:
    """The runs of an experiment's folder, but for those that tune."""
    runs = []
    for path in sorted(place.glob("*-seed*.json")):
        if path.name.startswith("."):
            continue
        result = read_result(path)
        check(result, path)
        if result.made["budget"] in BUDGETS:
            runs.append(result)
    return runs


def check(result: RunResult, path: Path) -> None:
    """Check what of a run's file a document relies on.

    Raises
    ------
    FormatError
        If the name is none of an experiment, or it does not say how it was made.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", str(result.experiment)):
        raise FormatError(f"{path}: {result.experiment!r} is not an experiment's name")
    if missing := {"experiment", "arm", "data", "budget", "versions"} - set(result.made):
        raise FormatError(f"{path} does not say with which {min(missing)} it was made")
    made = result.made
    if made["budget"] not in BUDGETS and not str(made["budget"]).endswith("-tuning"):
        raise FormatError(f"{path}: {made['budget']!r} is not a budget")
    if not all(isinstance(made[key], Mapping) for key in ("experiment", "arm", "data", "versions")):
        raise FormatError(f"{path} does not say how it was made")
    if (result.arm, made["budget"]) != (made["arm"].get("name"), made["experiment"].get("budget")):
        raise FormatError(
            f"{path} contradicts itself: its arm or budget is not what it was made with"
        )


def compact(results: Sequence[RunResult]) -> str:
    """Merge runs of one experiment to JSON, a line a run; floats have five digits.

    Raises
    ------
    FormatError
        If they were not made alike, see `require_alike`.
    """
    require_alike(results)
    made = {key: results[0].made[key] for key in ("experiment", "data", "budget")}
    every = {name for result in results for name in result.made["versions"]}
    made["versions"] = {
        name: sorted({str(r.made["versions"].get(name)) for r in results}) for name in sorted(every)
    }
    head = {"version": VERSION, "experiment": results[0].experiment, "made": made}
    runs = ",\n".join(json.dumps(_row(r), separators=(",", ":"), allow_nan=False) for r in results)
    return f'{json.dumps(head)[:-1]}, "runs": [\n{runs}\n]}}\n'


def expand(path: Path) -> list[RunResult]:
    """The runs of a merged file.

    Raises
    ------
    FormatError
        If it is not one, or of a version that this weightcast does not know.
    """
    try:
        found = json.loads(path.read_text())
        if found["version"] != VERSION:
            raise FormatError(f"{path} has another version than {VERSION}: make it again")
        results = [_result(found["experiment"], found["made"], row) for row in found["runs"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path} is not a file of merged runs: {error}") from error
    for result in results:
        check(result, path)
    if not results:
        raise FormatError(f"{path} has no runs")
    return results


def run_set(results: Sequence[RunResult]) -> RunSet:
    """Runs of one experiment beside its entry: the protocol as it was, the words as they are.

    Raises
    ------
    FormatError
        If the runs do not say how they were made, or were not made alike.
    """
    require_alike(results)
    name, made = results[0].experiment, results[0].made
    known = CATALOGUE.get(name)
    known = known.quick() if known and made["budget"] == "quick" else known
    try:
        protocol = _protocol(made["experiment"])
        arms = _arms(known.arms if known else (), (r.made["arm"] for r in results))
        blank = Experiment(name=name, title=name, paper="", arms=arms, **protocol)
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError(f"runs of {name} do not say how they were made: {error}") from error
    entry, stale, own = blank, list[str](), tuple[str, ...]()
    if known:
        entry, more = replace(known, arms=arms, **protocol), arms[len(known.arms) :]
        now, own = replace(known, arms=known.arms + more), tuple(arm.name for arm in more)
        stale = [n for n in ("arms", *protocol) if getattr(now, n) != getattr(entry, n)]
    order = [arm.name for arm in arms]
    runs = sorted(results, key=lambda r: (order.index(r.arm), r.seed))
    return RunSet(entry, tuple(runs), str(made["data"]["about"]), tuple(stale), own)


def _protocol(made: Mapping[str, Any]) -> dict[str, Any]:
    updates = dict(made["updates"])
    return {**made, "updates": Updates(**{**updates, "rate": Rate(**updates["rate"])})}


def _arms(known: Sequence[Arm], made: Iterable[Mapping[str, Any]]) -> tuple[Arm, ...]:
    """The catalogue's arms, as they were run where they were, and what else was run."""
    arms = {arm.name: arm for arm in known}
    ran = (Arm(**{**arm, "jumps": tuple(arm["jumps"])}) for arm in made)
    return tuple((arms | {arm.name: arm for arm in ran}).values())


def _folder(result: RunResult) -> str:
    quick = result.made["budget"] == "quick"
    return f"{result.experiment}-quick" if quick else result.experiment


def _row(result: RunResult) -> dict[str, Any]:
    row = {k: v for k, v in asdict(result).items() if k not in ("experiment", "made")}
    rounded: dict[str, Any] = _rounded({**row, "arm": result.made["arm"]})
    return rounded


def _result(experiment: str, made: Mapping[str, Any], row: dict[str, Any]) -> RunResult:
    arm, traces = row["arm"]["name"], {}
    for name, trace in row["traces"].items():
        loss = [math.nan if loss is None else loss for loss in trace["loss"]]
        traces[name] = trace_of(name, {**trace, "loss": loss})
    if arm not in traces:
        raise ValueError(f"there is no curve of the arm {arm!r}")
    return RunResult(
        **{**row, "arm": arm, "traces": traces},
        experiment=experiment,
        made={**made, "arm": row["arm"]},
    )


def _rounded(value: Any) -> Any:
    """The same with floats of five digits; what is not finite, such as a loss, becomes null."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value
