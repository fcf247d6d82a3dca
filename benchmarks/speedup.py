"""Two workers beside one, and beside what the machine gives two at that moment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from probing import Probe, take_turns
from rich.console import Console
from rich.table import Table
from scans import Task

from recorder import middle  # noqa: TID251, that of this folder
from weightcast.store import History

CHUNKS = 16  # that are decoded to see what the machine gives


def ratios(found: Mapping[str, list[Probe]], arm: str, base: str) -> list[float]:
    """How many times faster than another arm, in each repetition."""
    return [b.seconds / a.seconds for a, b in zip(found[arm], found[base], strict=True)]


def apart(probes: list[Probe]) -> bool:
    """Whether workers are processes of their own."""
    return probes[0].worker is not probes[0].driver


def bench_speedup(
    console: Console, folder: Path, history: History, tasks: Mapping[str, Task], repeats: int
) -> None:
    """Arms in pairs, one worker and two; before each repetition, the machine itself."""
    chunks = sorted(map(str, history.folder.glob("weights/c/*/0")))[:CHUNKS]
    machine = {s: Task("calibrate", tuple(chunks), scheduler=s) for s in ("threads", "processes")}
    found = take_turns(machine | dict(tasks), repeats, folder)
    table = Table(
        *("what", "1 worker, s", "2 workers, s", "2 are faster, x"),
        title=f"1 and 2 workers on N0, {len(history)} steps, warm; {repeats} times",
    )
    for scheduler in machine:
        answers = [p.answer for p in found.pop(scheduler)]
        for work in answers[0]:
            gain = middle(answer[work] for answer in answers)
            table.add_row(f"the machine: {work} in {scheduler}, nothing shared", "", "", gain)
    names = list(found)
    for one, two in zip(names[::2], names[1::2], strict=True):
        seconds = (middle(p.seconds for p in found[name]) for name in (one, two))
        scheduler = tasks[one].scheduler
        table.add_row(f"weightcast, {scheduler}", *seconds, middle(ratios(found, two, one)))
    console.print(table)
    console.print(
        f"  target 1.8, where two cores are free: {len(os.sched_getaffinity(0))} cores, load "
        f"{os.getloadavg()[0]:.1f}; where the machine's own rows are under 2, two were not free\n",
        highlight=False,
        soft_wrap=True,
    )
