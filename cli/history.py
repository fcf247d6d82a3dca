"""Commands on histories: ``record`` and ``info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import (
    echo,
    echo_line,
    json_option,
    megabytes,
    output_option,
    parameter_options,
    print_facts,
    print_table,
)

if TYPE_CHECKING:
    from weightcast.store import Dataset, History


@click.command(context_settings={"allow_interspersed_args": False})
@output_option("Folder of the history to write.")
@click.option("--resume", is_flag=True, help="Continue the history after its last step.")
@click.option(
    "--start-step",
    type=int,
    help="With --resume: the step of the checkpoint that the script goes on from; by default the "
    "last recorded step.",
)
@click.option(
    "--allow-gap",
    is_flag=True,
    help="With --start-step: go on although scheduled steps before it are missing.",
)
@click.option(
    "--schedule",
    help="Steps to record: every:N, log:N (a decade), geometric:AxRATIO (each a multiple of the "
    "one before), dense:N (up to), steps:A,B,..., jump:A,B,... (what jumps there need), joined by "
    "'+'; by default every:1, or that of the history to resume.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Of a script that trains several models: the variable or class name of the one to record; "
    "by default the first to be trained.",
)
@parameter_options("Record")
@click.option("--gradients", is_flag=True, help="Record gradients too, as they are after the step.")
@click.option(
    "--optimizer-state",
    multiple=True,
    metavar="KEY",
    help="Record this part of the optimizer's state too, such as exp_avg.",
)
@click.option(
    "--preset",
    type=click.Choice(["fast", "compact", "bounded"]),
    help="Codec: quick, small (both lossless), or within --error; by default fast, or that of the "
    "history to resume.",
)
@click.option(
    "--error", type=float, help="With --preset bounded: absolute error of a stored weight, at most."
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    help="MB for steps that wait to be compressed; by default 512, or three snapshots of a model "
    "that needs more.",
)
@click.option(
    "--when-full",
    type=click.Choice(["block", "skip"]),
    default="block",
    show_default=True,
    help="Where compression cannot keep up: wait for it, or skip steps and count them.",
)
@click.option(
    "--on-error",
    type=click.Choice(["raise", "warn"]),
    default="raise",
    show_default=True,
    help="Where recording fails: stop the script, or let it go on unrecorded.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print no summary.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- SCRIPT [ARGS]...")
def record(
    command: tuple[str, ...], output: str, memory: int | None, quiet: bool, **options: Any
) -> int:
    """Run a training script, unchanged, and record its weights.

    The script's arguments, output and exit code are its own. '-- -m package.module' runs a module.
    The model of the first optimizer to step is recorded. A script that resumes must load the
    checkpoint of the step that the recording goes on from. Weights wait in OUTPUT.ring until a
    second process has compressed them; it finishes if the script is killed. If both are killed,
    'weightcast recover', or whatever opens the history next, finishes from that file.

    \b
    Example:
      weightcast record -o run.zarr --schedule every:10 -- train.py --epochs 3
    """
    from weightcast.recorder import record_script

    metadata = {"command": list(command)}
    limit = memory and memory << 20
    outcome = record_script(command, output, memory=limit, metadata=metadata, **options)
    name = " ".join(command[:2]) if command[0] == "-m" else command[0]
    if outcome.failure:
        echo_line(f"{name} stopped early: {outcome.failure}")
    if outcome.elsewhere:
        return outcome.exit_code  # rank 0 records, and says so
    if outcome.unrecorded:
        echo_line(f"{name} went on unrecorded: {outcome.unrecorded}")
        return outcome.exit_code
    if outcome.summary is None and outcome.other_models:
        echo_line(
            f"{name} trains no model called {options['model']!r}, so nothing was recorded: it "
            f"trains {', '.join(outcome.other_models)}"
        )
        return outcome.exit_code or 1
    if outcome.summary is None:
        echo_line(
            f"{name} took no torch optimizer step, so nothing was recorded: does it train in this "
            "process?"
        )
        return outcome.exit_code or 1
    if not quiet:
        echo_line(outcome.summary)
    if outcome.others and not quiet:
        echo_line(
            f"other optimizers took {outcome.others} steps, which were not counted: the model of "
            "the first was recorded; to record another, choose it with --model"
            + (f": {', '.join(outcome.other_models)}" if outcome.other_models else "")
        )
    return outcome.exit_code


@click.command()
@click.argument("path", type=click.Path())
def recover(path: str) -> None:
    """Add to a history what a recording that was killed left in its ring file.

    Any command that opens the history does so too; this one says what it did.

    \b
    Example:
      weightcast recover run.zarr
    """
    from weightcast.store import History, recover

    added = recover(path)
    history = History(path)
    last = f", the last is {history.steps[-1]}" if len(history) else ""
    echo(f"added {added:,} steps: {path} has {len(history):,}{last}")


@click.command()
@click.argument("path", type=click.Path())
@json_option
def info(path: str, as_json: bool) -> None:
    """Show what a history (or a dataset) holds.

    \b
    Example:
      weightcast info run.zarr
    """
    from weightcast.store import History, open_stored

    opened = open_stored(path)
    if isinstance(opened, History):
        _show_history(opened, as_json)
    else:
        _show_dataset(opened, as_json)


def _show_history(history: History, as_json: bool) -> None:
    import dataclasses
    import json

    facts = history.info()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(facts) | {"ratio": facts.ratio}, indent=2))
        return
    rows = [(name, kind, str(list(shape)), dtype) for name, shape, dtype, kind in facts.parameters]
    print_table(("parameter", "kind", "shape", "dtype"), rows)
    span = f", from {facts.first_step} to {facts.last_step}" if facts.recorded else ""
    lines = {
        "weights": f"{facts.weights:,}",
        "buffers": f"{history.buffers.size:,}",
        "steps": f"{facts.recorded:,} recorded{span}",
        "schedule": facts.schedule,
        "recording": "a process that runs adds more" if facts.recording else "",
        "arrays": ", ".join(facts.arrays),
        "metrics": ", ".join(facts.metrics) or "none",
        "size": f"{megabytes(facts.stored_bytes)} on disk, {megabytes(facts.raw_bytes)} of numbers",
        "ratio": f"{facts.ratio:.2f}",
        "codec": f"{facts.preset}, chunks of {facts.chunks[0]} weights x {facts.chunks[1]} steps",
        "written by": ", ".join(f"{name} {number}" for name, number in facts.versions.items()),
    }
    about = facts.metadata.items()
    metadata = [("metadata", f"{json.dumps(name)}: {json.dumps(value)}") for name, value in about]
    print_facts([*((name, value) for name, value in lines.items() if value), *metadata])


def _show_dataset(dataset: Dataset, as_json: bool) -> None:
    import json

    from weightcast.store import describe_dataset

    about = describe_dataset(dataset)
    strata = zip(*(run.strata for run in about.runs), strict=True)
    facts = {
        "source": dataset.source,
        **about.recipe,
        "samples": about.samples,
        "t": [min(run.t[0] for run in about.runs), max(run.t[1] for run in about.runs)],
        "strata": [sum(stratum.samples for stratum in of_all) for of_all in strata],
        "bytes": about.size,
        "training": about.training,
        "held out": about.validation,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_facts(facts.items())
    echo(f"'weightcast dataset show {dataset.path}' explains it")
