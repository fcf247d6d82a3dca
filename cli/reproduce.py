"""The ``reproduce`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import echo_line, json_option

if TYPE_CHECKING:
    from pathlib import Path

    from weightcast.experiments.experiment import Experiment
    from weightcast.experiments.jobs import Run
    from weightcast.experiments.own import Own
    from weightcast.experiments.sources import Found

PAPER, QUICK = "paper", "quick"


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option(
    "--list", "listed", is_flag=True, help="Show all there is, or what is NAME; run nothing."
)
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
    help="Download what you have not, and keep it there: OpenML has mnist, fashion and cifar10. "
    "Other data cannot be downloaded.",
)
@click.option(
    "--seeds",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Runs of every arm: with seeds 0, 1, ...",
)
@click.option(
    "--budget",
    default=PAPER,
    show_default=True,
    type=click.Choice([PAPER, QUICK]),
    help="As many steps as in the paper, or a few hundred, to see that it works.",
)
@click.option("--arms", metavar="A,B,...", help="Only these arms of an experiment.")
@click.option(
    "--forecaster",
    "forecasters",
    multiple=True,
    metavar="FILE_OR_NAME",
    type=click.Path(),
    help="Add an arm to each experiment, which jumps by this forecaster where its jumps do.",
)
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
@click.option("--network", metavar="A,B,...", help="Studies: the networks to train.")
@click.option(
    "--rewind", metavar="STEPS", help="Studies: the steps to rewind to, such as 0,100,500,2000."
)
@click.option("--rounds", type=click.IntRange(min=1), help="Studies: how often to prune.")
def reproduce(names: tuple[str, ...], listed: bool, workers: int, **options: Any) -> int:
    """Run experiments of the papers: plain training, jumps, and what a careful reader would add.

    NAME is an experiment of --list, or "all": those whose data are given; or a study of --list:
    wus, imp, early-phase. Their options are the last ones below.

    Arms of an experiment start from the same weights and see the same batches. plain is the
    paper's training; jumps jumps at its steps; one-cycle has a tuned learning-rate schedule
    instead; one-cycle + jumps has both. averaging comes with plain: its weights, averaged.

    What is done is kept: the same command goes on where it was stopped, and a run that was begun
    from its last checkpoint, at most half a minute before. More seeds or arms add to it.

    The output folder gets EXPERIMENT/ with a JSON file a run, table.txt, and the weight histories
    of plain and jumps with seed 0: 10 MB for fm16, 0.3 GB for mnist2, 2 GB for mnist1. baselines
    adds forecasters/, 1.3 GB. reproduction.md and reproduction/ have tables, curves and numbers.

    \b
    Example:
      weightcast reproduce --list
      weightcast reproduce mnist2 --data mnist=/data/mnist --workers 4
      weightcast reproduce all --data /data --budget quick --seeds 1 -o quick/
      weightcast reproduce fm16 --arms "plain, jumps" --dry-run
      weightcast reproduce mnist2 --data mnist=/data/mnist --forecaster mine.safetensors
      weightcast reproduce imp --data mnist=/data/mnist --rewind 0,100,500,2000 --rounds 10
    """
    from pathlib import Path

    from weightcast.cli.reproduce_jobs import do
    from weightcast.cli.reproduce_plan import print_plan
    from weightcast.cli.reproduce_report import report
    from weightcast.cli.reproduce_study import reproduce_studies
    from weightcast.experiments.jobs import Place, jobs_of
    from weightcast.experiments.own import Own, keep
    from weightcast.experiments.reproducing import held, refuse_foreign, require_device
    from weightcast.store.remote import require_local

    if listed:
        return _list(names, **options)
    require_local(options["output"])
    require_device(options["device"])
    folder = Path(options.pop("output"))
    if _are_studies(names, options):
        return reproduce_studies(names, folder, workers, **options)
    own = [Own.given(text) for text in options.pop("forecasters")]
    runs, found = _planned(names, folder, own, **options)
    left, place = jobs_of(runs, folder), Place(folder, found.folders, options["device"])
    if options["dry_run"]:
        refuse_foreign(folder)
        every = [job for job in jobs_of(runs) if job in left or job in runs]
        return print_plan(every, place, found, workers, as_json=options["as_json"])
    with held(folder):
        keep(own, folder)
        failures = do(left, place, workers)
        try:
            report(runs, folder, as_json=options["as_json"])
        finally:
            for failure in failures:
                echo_line(failure)
    return 1 if failures else 0


def _list(names: tuple[str, ...], *, budget: str, seeds: int, as_json: bool, **_: Any) -> int:
    """Show the experiments and studies that are named, in detail; or all there are."""
    from weightcast.cli.reproduce_tables import print_catalogue
    from weightcast.experiments.catalogue import CATALOGUE, find
    from weightcast.experiments.studies import MODULES, study_of
    from weightcast.experiments.study import Request

    every = not names or "all" in names
    entries = list(CATALOGUE.values()) if every else [find(n) for n in names if n not in MODULES]
    studies = [study_of(name) for name in MODULES if every or name in names]
    return print_catalogue(
        [_shortened(entry, budget) for entry in entries],
        studies,
        Request(seeds=seeds, budget=budget),
        details=not every,
        as_json=as_json,
    )


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
    if studies and options["forecasters"]:
        raise click.UsageError(f"{studies[0]} takes no --forecaster")
    return bool(studies)


def _shortened(experiment: Experiment, budget: str) -> Experiment:
    return experiment.quick() if budget == QUICK else experiment


def _planned(
    names: tuple[str, ...],
    folder: Path,
    own: list[Own],
    *,
    budget: str,
    arms: str | None,
    **options: Any,
) -> tuple[list[Run], Found]:
    """The runs that are asked for, and their data: all is checked that can be."""
    from weightcast.experiments.catalogue import CATALOGUE, find
    from weightcast.experiments.own import with_own
    from weightcast.experiments.reproducing import arms_of, plan, refuse_others
    from weightcast.experiments.sources import Given, find_data, supplied
    from weightcast.store import UsageError

    if not names:
        raise UsageError("name the experiments to run, or all; --list shows them")
    every = "all" in names
    named = [find(name) for name in dict.fromkeys(names) if name != "all"]
    entries = list(CATALOGUE.values()) if every else named
    chosen = [with_own(_shortened(entry, budget), own) for entry in entries]
    runs = plan(chosen, options["seeds"], [] if arms is None else arms_of(arms, chosen))
    given = Given.parse(options["data"])
    needed = sorted(set().union(*(run.data for run in runs)))
    found = find_data(needed, given, options["fetch"], dry_run=options["dry_run"])
    runs, left_out = supplied(runs, found, any_of_them=every)
    for line in left_out:
        echo_line(line)
    refuse_others(runs, folder, found.data, options["device"])
    return runs, found
