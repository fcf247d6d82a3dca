"""The ``reproduce`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import echo, echo_line, json_option, print_json

if TYPE_CHECKING:
    from pathlib import Path

    from weightcast.experiments.experiment import Experiment
    from weightcast.experiments.jobs import Run

PAPER, QUICK = "paper", "quick"


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--list", "listed", is_flag=True, help="Show the experiments, and run nothing.")
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]DIR",
    help="Folder of data, for all experiments, or for one data set: fashion=DIR. "
    "Fashion-MNIST is found where Debian puts it.",
)
@click.option(
    "--fetch",
    metavar="DIR",
    type=click.Path(),
    help="Download data that OpenML has and you have not, and keep them there.",
)
@click.option(
    "--seeds",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Runs of every arm.",
)
@click.option(
    "--budget",
    default=PAPER,
    show_default=True,
    type=click.Choice([PAPER, QUICK]),
    help="As many steps as in the paper, or a few hundred, to see that it works.",
)
@click.option("--arms", metavar="A,B,...", help="Only these arms of an experiment.")
@click.option("--network", metavar="A,B,...", help="Of a study: the networks to train.")
@click.option(
    "--rewind", metavar="STEPS", help="Of a study: the steps to rewind to, such as 0,100,500,2000."
)
@click.option("--rounds", type=click.IntRange(min=1), help="Of a study: how often to prune.")
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Processes, of one thread each; the results are the same.",
)
@click.option("--device", default="cpu", show_default=True, help="That torch trains on: cpu, cuda.")
@click.option(
    "-o",
    "--output",
    default="results",
    show_default=True,
    type=click.Path(),
    help="Folder of results.",
)
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@json_option
def reproduce(names: tuple[str, ...], listed: bool, workers: int, **options: Any) -> int:
    """Run experiments of the papers: plain training, jumps, and what a careful reader would add.

    NAME is an experiment of --list, or "all": those whose data are given; or a study of --list:
    wus, imp, early-phase. What is done already is kept, so that the same command goes on where it
    was stopped.

    \b
    Example:
      weightcast reproduce --list
      weightcast reproduce mnist2 --data mnist=/data/mnist --workers 4
      weightcast reproduce all --data /data --budget quick --seeds 1 -o quick/
      weightcast reproduce fm16 --arms "plain, jumps" --dry-run
      weightcast reproduce imp --data mnist=/data/mnist --rewind 0,100,500,2000 --rounds 10
    """
    from pathlib import Path

    from weightcast.cli.reproduce_jobs import do
    from weightcast.cli.reproduce_study import reproduce_studies
    from weightcast.cli.reproduce_tables import print_plan
    from weightcast.experiments.jobs import Place, jobs_of
    from weightcast.experiments.reproducing import held, require_device
    from weightcast.store.remote import require_local

    if listed:
        return _list(**options)
    require_local(options["output"])
    folder = Path(options.pop("output"))
    if _are_studies(names, options):
        return reproduce_studies(names, folder, workers, **options)
    runs, sources = _planned(names, folder, **options)
    left = jobs_of(runs, folder)
    if options["dry_run"]:
        every = [job for job in jobs_of(runs) if job in left or job in runs]
        return print_plan(every, left, folder, workers, as_json=options["as_json"])
    place = Place(folder, sources, require_device(options["device"]))
    with held(folder):
        failures = do(left, place, workers)
        try:
            _report(runs, folder, as_json=options["as_json"])
        finally:
            for failure in failures:
                echo_line(failure)
    return 1 if failures else 0


def _list(*, budget: str, seeds: int, as_json: bool, **_: Any) -> int:
    from weightcast.cli.reproduce_tables import print_catalogue
    from weightcast.experiments.catalogue import CATALOGUE
    from weightcast.experiments.studies import MODULES, study_of
    from weightcast.experiments.study import Request

    experiments = [_shortened(entry, budget) for entry in CATALOGUE.values()]
    request = Request(seeds=seeds, budget=budget)
    return print_catalogue(experiments, map(study_of, MODULES), request, as_json=as_json)


def _are_studies(names: tuple[str, ...], options: dict[str, Any]) -> bool:
    """Whether studies are named, which have options and a report of their own."""
    from weightcast.cli.reproduce_study import OPTIONS
    from weightcast.experiments.studies import MODULES

    studies = [name for name in names if name in MODULES]
    if others := [name for name in names if name not in MODULES] if studies else []:
        raise click.UsageError(
            f"{studies[0]} is a study and {others[0]} is none: run them one after the other"
        )
    if not studies and (given := next((o for o in OPTIONS if options[o] is not None), None)):
        raise click.UsageError(
            f"--{given} is an option of studies, and no study is named: {', '.join(MODULES)}"
        )
    return bool(studies)


def _shortened(experiment: Experiment, budget: str) -> Experiment:
    return experiment.quick() if budget == QUICK else experiment


def _planned(
    names: tuple[str, ...], folder: Path, *, budget: str, arms: str | None, **options: Any
) -> tuple[list[Run], dict[str, Path]]:
    """The runs that are asked for, and where their data are: all is checked that can be."""
    from pathlib import Path

    from weightcast.experiments.catalogue import CATALOGUE, find
    from weightcast.experiments.reproducing import arms_of, plan, refuse_others
    from weightcast.experiments.sources import Given, fetched, look_for, supplied
    from weightcast.store import UsageError

    if not names:
        raise UsageError("name the experiments to run, or all; --list shows them")
    every = "all" in names
    named = [find(name) for name in dict.fromkeys(names) if name != "all"]
    chosen = list(CATALOGUE.values()) if every else named
    runs = plan(
        [_shortened(entry, budget) for entry in chosen],
        options["seeds"],
        arms_of(arms or "", chosen),
    )
    given = Given.parse(options["data"])
    needed = sorted(set().union(*(run.data for run in runs)))
    found = look_for(needed, given)
    if options["fetch"] and found.missing and not options["dry_run"]:
        found = look_for(needed, fetched(found.missing, given, Path(options["fetch"])))
    runs, left_out = supplied(runs, found, any_of_them=every)
    if left_out:
        echo_line(left_out)
    refuse_others(runs, folder, found.data)
    return runs, found.folders


def _report(runs: list[Run], folder: Path, *, as_json: bool) -> None:
    """Say what came of the experiments, and write the document of all that is in the folder."""
    from weightcast.experiments.reporting import facts, summaries, write_table
    from weightcast.store import MissingExtraError

    shown = summaries(folder, dict.fromkeys(run.experiment.folder for run in runs))
    tables = [write_table(summary, folder) for summary in shown]
    if as_json:
        print_json([facts(summary) for summary in shown])
    else:
        for table in tables:
            echo(table)
    if not shown:
        return
    try:
        from weightcast.experiments.document import write_document

        write_document(folder, folder)
    except MissingExtraError as error:
        echo_line(f"no document: {error}")
    else:
        echo(f"tables, curves and numbers: {folder / 'reproduction.md'}", err=as_json)
