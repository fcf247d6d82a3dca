"""What the runs of weight-update skipping measured, as they lie in files.

::

    RESULTS/wus/SETTING/ARM-seedN.json  --gather-->  DOCS/wus/SETTING.json  --read-->  Runs
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from weightcast.experiments.kept import required
from weightcast.experiments.results import file_name
from weightcast.experiments.summary import Spread
from weightcast.experiments.wording import listed
from weightcast.experiments.wus_measured import Measured
from weightcast.experiments.wus_runs import FOLDER
from weightcast.experiments.wus_settings import ARMS, SHORTER, Setting, settings
from weightcast.experiments.wus_timed import steps_at_cost
from weightcast.store import FormatError, InputNotFoundError
from weightcast.store.output import write_text


@dataclass(frozen=True)
class Runs:
    """All runs of a setting.

    Attributes
    ----------
    folder : str
        Its name, see `Setting.folder`.
    setting : dict
        As the runs were made.
    torch : list of str
        Versions that they were made with.
    arms : dict of str to dict of int to Measured
        Runs by arm and seed.
    """

    folder: str
    setting: Mapping[str, Any]
    torch: list[str]
    arms: Mapping[str, Mapping[int, Measured]]

    @property
    def seeds(self) -> list[int]:
        """Of any run."""
        return sorted({seed for runs in self.arms.values() for seed in runs})

    def over(self, arm: str, number: Callable[[Measured], float]) -> Spread:
        """A number of each run of an arm."""
        return Spread({seed: number(run) for seed, run in self.arms.get(arm, {}).items()})

    @property
    def sound(self) -> Runs:
        """Those that did not diverge: such a run stops, and so seems to cost little."""
        arms = {
            arm: {seed: run for seed, run in by_seed.items() if not run.diverged}
            for arm, by_seed in self.arms.items()
        }
        return replace(self, arms=arms)


def gather(results: Path) -> dict[str, dict[str, Any]]:
    """The runs in a results folder, as JSON: by the name of their setting.

    Raises
    ------
    FormatError
        If a file is damaged, or runs of a setting were made in different ways; see `runs_of`.
    """
    found = {}
    for setting in settings().values():
        place = results / FOLDER / setting.folder
        runs = {arm: by_seed for arm in ARMS if (by_seed := dict(_runs(place, arm)))}
        if runs:
            found[setting.folder] = _together(place, runs)
            runs_of(setting.folder, found[setting.folder])  # refuses what does not go together
    return found


def write(results: Path, docs: Path) -> None:
    """Bring the runs in a results folder to ``DOCS/wus/``; of what is not there, those stay.

    Raises
    ------
    InputNotFoundError
        If there are none.
    FormatError
        See `gather`.
    """
    found = gather(results)
    if not found:
        raise InputNotFoundError(f"no results of {FOLDER} in {results}")
    for name, runs in found.items():
        write_text(docs / FOLDER / f"{name}.json", json.dumps(runs) + "\n")


def read(docs: Path) -> list[Runs]:
    """What `write` wrote, in the order of the settings.

    Raises
    ------
    FormatError
        If a file is damaged.
    """
    paths = {s.folder: docs / FOLDER / f"{s.folder}.json" for s in settings().values()}
    there = {name: path for name, path in paths.items() if path.exists()}
    found = []
    for name, path in there.items():
        try:
            found.append(runs_of(name, json.loads(path.read_text())))
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path} does not hold numbers of wus: {error}") from error
    return found


def runs_of(folder: str, whole: Mapping[str, Any]) -> Runs:
    """From JSON as `gather` gives it.

    Raises
    ------
    FormatError
        If it is not such, if runs are of several devices, or if a run whose length is the cost of
        another has another length.
    """
    try:
        arms = {
            arm: {int(seed): Measured.of(numbers) for seed, numbers in whole["runs"][arm].items()}
            for arm in ARMS
            if arm in whole["runs"]
        }
        if not any(arms.values()):
            raise ValueError("no runs")
        runs = Runs(folder, _setting(whole["setting"]), [str(v) for v in whole["torch"]], arms)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise FormatError(f"numbers of wus, {folder}, are damaged: {error!r}") from error
    _refuse_apart(runs)
    return runs


def _refuse_apart(runs: Runs) -> None:
    """Refuse runs that must not be compared."""
    devices = sorted({run.device for by_seed in runs.arms.values() for run in by_seed.values()})
    if len(devices) > 1:
        raise FormatError(
            f"numbers of wus, {runs.folder}, are of {listed(devices)}, whose times must not be "
            "compared: run all on one device, in another results folder"
        )
    for arm, whose in SHORTER.items():
        for seed, run in runs.arms.get(arm, {}).items():
            beside = runs.arms.get(whose, {}).get(seed)
            if beside is not None and run.steps != (steps := steps_at_cost(beside.cost)):
                raise FormatError(
                    f"numbers of wus, {runs.folder}: {arm} with seed {seed} has {run.steps} steps, "
                    f"and {whose} costs {steps}: remove {file_name(arm, seed)} and run it again"
                )


def _setting(made: Mapping[str, Any]) -> dict[str, Any]:
    """What a document says of a setting; arms that do not skip have no rule."""
    kinds: Mapping[Any, Any] = {"str": str, "int": int, "float": float}
    rule = {"threshold", "window", "longest"} - made.keys()
    wanted = [f for f in fields(Setting) if f.name not in rule | {"step_seconds"}]
    return {f.name: kinds[f.type](made[f.name]) for f in wanted}


def _runs(place: Path, arm: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Seeds of an arm, and their files' contents."""
    start, end = file_name(arm, 0).split("0.")
    for path in sorted(place.glob(f"{start}*.{end}")):
        if number := re.fullmatch(rf"{re.escape(start)}(\d+)\.{end}", path.name):
            required(path)  # refuses what is damaged
            yield int(number[1]), json.loads(path.read_text())


def _together(place: Path, runs: Mapping[str, Mapping[int, Any]]) -> dict[str, Any]:
    """Runs of a setting, with what they have in common said once."""
    setting: dict[str, Any] = {}
    digests: dict[str, Any] = {}
    versions = set()
    for arm, seeds in runs.items():
        for seed, whole in seeds.items():
            try:
                made, data = whole["made"]["setting"], whole["made"]["data"]
                versions.add(whole["versions"]["torch"])
                same = all(setting.setdefault(k, v) == v for k, v in made.items())
                digests = digests or data
            except (KeyError, TypeError, AttributeError) as error:
                raise FormatError(f"{place}: {arm}, seed {seed} is damaged: {error!r}") from error
            if not same or data != digests:
                raise FormatError(
                    f"{place}: {arm}, seed {seed} was made otherwise than the runs beside it: "
                    "remove one of them and run it again"
                )
    numbers = {arm: {s: whole["numbers"] for s, whole in by.items()} for arm, by in runs.items()}
    return {"setting": setting, "data": digests, "torch": sorted(versions), "runs": numbers}
