"""What came of the experiments of ``weightcast reproduce``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weightcast.cli.console import echo, echo_line, print_json, print_table
from weightcast.cli.reproduce_tables import echo_wrapped, seeds_in_words

if TYPE_CHECKING:
    from pathlib import Path

    from weightcast.experiments.jobs import Run
    from weightcast.experiments.summary import Summary

_COLUMNS = ("arm", "at the\nend", "best", "to plain's\nbest", "processor\nseconds")
_FORECASTS = "forecasts,\nby the clock"


def report(runs: Sequence[Run], folder: Path, *, as_json: bool) -> None:
    """Say what came of the experiments, and write the document of all that is in the folder."""
    from weightcast.experiments.reporting import facts, summaries, write_table

    shown = summaries(folder, dict.fromkeys(run.experiment.folder for run in runs))
    for summary in shown:
        write_table(summary, folder)
        if others := _others(summary, runs):
            echo_line(f"{folder} also has {others}: all are shown")
    if as_json:
        print_json([facts(summary) for summary in shown])
    else:
        for summary in shown:
            _print(summary)
    if shown:
        _write_document(shown, folder, as_json=as_json)


def _others(summary: Summary, runs: Sequence[Run]) -> str:
    """What runs there are that were not asked for."""
    entry = summary.set.entry
    asked = {(r.arm.name, r.seed) for r in runs if r.experiment.folder == entry.folder}
    there = {(run.arm, run.seed) for run in summary.set.runs}
    if not (more := there - asked):
        return ""
    arms = ", ".join(arm.name for arm in entry.arms if arm.name in {name for name, _ in more})
    seeds = ", ".join(map(str, sorted({seed for _, seed in more})))
    return f"other runs of {entry.folder} (arms: {arms}; seeds: {seeds})"


def _print(summary: Summary) -> None:
    """The arms by the numbers that matter, and what they show."""
    from weightcast.experiments.reporting import findings_of, warning
    from weightcast.experiments.summary import BEST
    from weightcast.experiments.wording import count, decimals, percent

    entry, arms = summary.set.entry, list(summary.arms.values())
    forecasts = any(arm.forecast_seconds.high for arm in arms)
    rows = []
    for arm in arms:
        numbers = (
            *((arm.final, percent), (arm.best, percent), (arm.targets[BEST].steps, count)),
            *((arm.seconds, decimals), (arm.forecast_seconds, decimals))[: 1 + forecasts],
        )
        cells = (("never" if s.median is None else show(s.median)) for s, show in numbers)
        rows.append((arm.name, *cells))
    if text := warning(entry):
        echo_wrapped(text)
    medians = f"medians of {seeds_in_words(len(summary.seeds))}"
    title = f"{entry.folder}: accuracy, steps and time, {medians}"
    columns = (*_COLUMNS, *[_FORECASTS] * forecasts)
    print_table(columns, rows, title, wrapped=("arm",))
    for finding in findings_of(summary):
        echo_wrapped(finding, "- ", "  ")


def _write_document(shown: Sequence[Summary], folder: Path, *, as_json: bool) -> None:
    from weightcast.store import MissingExtraError

    try:
        from weightcast.experiments.document import write_document

        path = write_document(folder, folder, told=echo_line)
    except MissingExtraError as error:
        echo_line(f"no document: {error}")
        return
    if any(summary.set.entry.budget == "paper" for summary in shown):
        echo(f"tables, curves and numbers: {path}", err=as_json)
    else:
        echo(f"what ran: {path}; its numbers: {folder / 'reproduction'}", err=as_json)
