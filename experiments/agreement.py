"""Whether runs were made alike, by what their results say of how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weightcast.experiments.results import RunResult, others
from weightcast.store import FormatError

FORECASTER = "forecaster_sha256"
NETWORK = "network_sha256"
_LATER = {FORECASTER, NETWORK}  # older results do not say it


def device_name(device: object) -> str:
    """The same name for the same device.

    Examples
    --------
    >>> device_name("cpu:0"), device_name("cuda"), device_name("cuda:1")
    ('cpu', 'cuda:0', 'cuda:1')
    """
    kind, _, index = str(device or "cpu").partition(":")
    return kind if kind == "cpu" else f"{kind}:{index or 0}"


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of what runs were made with and that is not the same; versions may differ.

    Examples
    --------
    >>> differing({"seed": 1, "device": "cuda"}, {"seed": 2, "device": "cuda:0"})
    ['seed']
    """
    names = {*one, *other} - {"versions"} - {n for n in _LATER if n not in one or n not in other}
    return sorted(name for name in names if _essence(one, name) != _essence(other, name))


def require_alike(results: Sequence[RunResult]) -> None:
    """Check that runs of one experiment may stand side by side, and seeds of an arm together.

    Raises
    ------
    FormatError
        If they were made with different networks, data, optimizers, lengths or devices; seeds of an
        arm with different jumps, forecasters or peaks; or one-cycle arms with different peaks.
    """
    for name in ("experiment", "data", "budget", "device"):
        _refuse(results, name, [_essence(run.made, name) for run in results])
    cycles = [run for run in results if run.made["arm"].get("schedule") == "one-cycle"]
    _refuse(cycles, "peak", [run.peak for run in cycles])
    for arm in dict.fromkeys(run.arm for run in results):
        seeds = [run for run in results if run.arm == arm]
        _refuse(seeds, "forecaster, or other jumps", [run.made["arm"] for run in seeds])
        told = [run for run in seeds if FORECASTER in run.made]
        _refuse(told, "forecaster", [run.made[FORECASTER] for run in told])


def _refuse(runs: Sequence[RunResult], what: str, values: Sequence[object]) -> None:
    """Refuse runs that have different values of something."""
    for run, value in zip(runs, values, strict=True):
        if value != values[0]:
            raise FormatError(
                f"{run.experiment}: {runs[0].arm} with seed {runs[0].seed} and {run.arm} with "
                f"seed {run.seed} were made with {others([what])}: remove what is out of date, "
                "and run it again"
            )


def _essence(made: Mapping[str, Any], name: str) -> object:
    """What must not differ: of data not the words that describe it."""
    value = made.get(name)
    if name == "data" and isinstance(value, Mapping):
        return value.get("sha256", value)
    return device_name(value) if name == "device" else value
