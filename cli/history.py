"""Commands on histories: ``record`` and ``info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import json_option, megabytes, output_option, print_table

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
    help="Steps to record: every:N, log:N (a decade), dense:N (up to), steps:A,B,..., "
    "jump:A,B,... (what jumps there need), joined by '+'; by default every:1, or that of the "
    "history to resume.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Of a script that trains several models: the variable or class name of the one to record; "
    "by default the first to be trained.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Record only these parameters.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Do not record these parameters.")
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
        click.echo(f"weightcast: {name} stopped early: {outcome.failure}", err=True)
    if outcome.elsewhere:
        return outcome.exit_code  # rank 0 records, and says so
    if outcome.unrecorded:
        click.echo(f"weightcast: {name} went on unrecorded: {outcome.unrecorded}", err=True)
        return outcome.exit_code
    if outcome.summary is None and outcome.other_models:
        click.echo(
            f"weightcast: {name} trains no model called {options['model']!r}, so nothing was "
            f"recorded: it trains {', '.join(outcome.other_models)}",
            err=True,
        )
        return outcome.exit_code or 1
    if outcome.summary is None:
        click.echo(
            f"weightcast: {name} took no torch optimizer step, so nothing was recorded: "
            "does it train in this process?",
            err=True,
        )
        return outcome.exit_code or 1
    if not quiet:
        click.echo(f"weightcast: {outcome.summary}", err=True)
    if outcome.others and not quiet:
        click.echo(
            f"weightcast: other optimizers took {outcome.others} steps, which were not counted: "
            "the model of the first was recorded; to record another, choose it with --model"
            + (f": {', '.join(outcome.other_models)}" if outcome.other_models else ""),
            err=True,
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
    click.echo(f"added {added:,} steps: {path} has {len(history):,}{last}")


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
    for name, value in lines.items():
        if value:
            click.echo(f"{name:12}{value}")
    for name, value in facts.metadata.items():
        click.echo(f"metadata    {json.dumps(name)}: {json.dumps(value)}")


def _show_dataset(dataset: Dataset, as_json: bool) -> None:
    import json

    facts = {
        "source": dataset.source,
        **dataset.recipe.to_json(),
        "t": [int(dataset.step.min()), int(dataset.step.max())],
        "strata": dataset.recipe.counts(),
        "bytes": sum(f.stat().st_size for f in dataset.path.rglob("*") if f.is_file()),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        click.echo(f"{name:12}{value}")
