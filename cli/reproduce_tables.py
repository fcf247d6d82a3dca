"""What ``weightcast reproduce --list`` shows: all that could run, or an entry with its details."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import print_json, print_table, printable

if TYPE_CHECKING:
    from weightcast.experiments.experiment import Arm, Experiment
    from weightcast.experiments.study import Request, Study

_AVERAGING = (
    "averaging is no arm of its own: it comes with plain, whose weights are averaged and evaluated "
    "beside it"
)


def print_catalogue(
    experiments: Sequence[Experiment],
    studies: Sequence[Study],
    request: Request,
    *,
    details: bool,
    as_json: bool,
) -> int:
    """Show experiments and studies: in a table, or each with its details."""
    rows = [_experiment(e, request.seeds) for e in experiments]
    others = [_study(study, request) for study in studies]
    if as_json:
        print_json([{**row, "seconds": round(row["seconds"])} for row in (*rows, *others)])
    elif details:
        for row, experiment in zip(rows, experiments, strict=True):
            _detail_experiment(row, experiment, request.seeds)
        for row in others:
            _detail_study(row, request.seeds)
    else:
        _print_experiments(rows, request.seeds)
        _print_studies(others)
    return 0


def echo_wrapped(text: object, first: str = "", others: str = "") -> None:
    """Print a text in lines as wide as the terminal: what stands before the first, and the others.

    Names are not broken at their dashes.
    """
    import textwrap
    from shutil import get_terminal_size

    options: Any = {"initial_indent": first, "subsequent_indent": others}
    width = get_terminal_size().columns
    click.echo(textwrap.fill(printable(text), width, **options, break_on_hyphens=False))


def _print_experiments(rows: Sequence[dict[str, Any]], seeds: int) -> None:
    columns = ("name", "title", "data", "steps", "time")
    cells = [
        (
            *(row["name"], row["title"], _given_as(row["data"])),
            *(f"{row['steps']:,}", _short(row["seconds"])),
        )
        for row in rows
    ]
    heading = f"Experiments. Time: about, on one core, for {seeds_in_words(seeds)}"
    print_table(columns, cells, heading, words=("title", "data"), wrapped=("title",))


def _print_studies(rows: Sequence[dict[str, Any]]) -> None:
    columns = ("study", "title", "time", "options")
    cells = [
        (row["name"], row["title"], _short(row["seconds"]), _options(row["options"]))
        for row in rows
    ]
    left = ("title", "options")
    print_table(columns, cells, "Studies. Time: of the first network", words=left, wrapped=left)
    for row in rows:
        echo_wrapped(f"networks of {row['name']}: {', '.join(row['networks'])}", "  ", "    ")
    echo_wrapped("weightcast reproduce NAME --list shows one with its arms, settings and notes")


def _detail_experiment(row: dict[str, Any], experiment: Experiment, seeds: int) -> None:
    from weightcast.experiments.pacing import duration

    every = f"evaluated every {experiment.evaluate_every:,}"
    name = _given_as(row["data"])
    facts = [
        ("paper", row["paper"]),
        ("data", f"{row['data']}: --data {name}=DIR"),
        ("steps", f"{row['steps']:,}, batches of {row['batch']}, {every}"),
        (
            "time",
            f"{duration(row['seconds'])} on one core, for {seeds_in_words(seeds)} of all arms",
        ),
        *(("note", note) for note in row["notes"]),
    ]
    _print_facts(f"{row['name']}: {row['title']}", facts)
    columns = ("arm", "jumps after steps", "forecaster")
    print_table(columns, list(map(_arm, experiment.arms)), words=columns, wrapped=columns[:2])
    if experiment.averaged:
        echo_wrapped(_AVERAGING)


def _arm(arm: Arm) -> tuple[str, str, str]:
    if not arm.jumps:
        return arm.name, "", ""
    return arm.name, ", ".join(f"{step:,}" for step in arm.jumps), arm.forecaster


def _detail_study(row: dict[str, Any], seeds: int) -> None:
    from weightcast.experiments.pacing import duration

    facts = [
        ("paper", row["paper"]),
        ("data", ", ".join(f"{d}: --data {_given_as(d)}=DIR" for d in row["data"])),
        ("networks", f"{', '.join(row['networks'])}; by default {row['networks'][0]}"),
        ("options", _options(row["options"])),
        ("jobs", f"{row['jobs']:,}, for {seeds_in_words(seeds)} of the first network"),
        ("time", f"{duration(row['seconds'])} for these, on one core"),
    ]
    _print_facts(f"{row['name']}: {row['title']}", facts)


def _print_facts(heading: str, facts: Sequence[tuple[str, str]]) -> None:
    echo_wrapped(heading)
    for name, text in facts:
        echo_wrapped(text, f"  {name:10}", " " * 12)


def _experiment(e: Experiment, seeds: int) -> dict[str, Any]:
    from weightcast.experiments.jobs import jobs_of
    from weightcast.experiments.pacing import seconds_of
    from weightcast.experiments.reproducing import plan

    return {
        "name": e.name,
        "title": e.title,
        "paper": e.paper,
        "data": e.data,
        "steps": e.steps,
        "batch": e.batch,
        "jumps": next((arm.jumps for arm in e.arms if arm.jumps), ()),
        "arms": [arm.name for arm in e.arms],
        "jumps by arm": {arm.name: arm.jumps for arm in e.arms},
        "forecasters": {arm.name: arm.forecaster for arm in e.arms if arm.jumps},
        "notes": e.notes,
        "seconds": sum(map(seconds_of, jobs_of(plan([e], seeds)))),
    }


def _study(study: Study, request: Request) -> dict[str, Any]:
    from weightcast.experiments.study import with_needs

    jobs = with_needs(study.plan(request))
    return {
        "name": study.name,
        "title": study.title,
        "paper": study.paper,
        "data": sorted(set().union(*(job.data for job in jobs))),
        "networks": list(study.networks),
        "options": sorted(study.options),
        "jobs": len(jobs),
        "seconds": sum(job.seconds for job in jobs),
    }


def _given_as(data: str) -> str:
    """What --data calls a data set."""
    from weightcast.experiments.sources import family

    return family(data)


def _short(seconds: float) -> str:
    from weightcast.experiments.pacing import duration

    return duration(seconds).removeprefix("about ")


def _options(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def seeds_in_words(count: int) -> str:
    """How many seeds."""
    return f"{count} seed{'s'[: count > 1]}"
