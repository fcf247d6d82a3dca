"""Commands that exchange weights with other programs: ``export`` and ``import``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import megabytes, output_option, print_table, progress

if TYPE_CHECKING:
    from weightcast.recorder import ImportPlan


def step_or_last(context: click.Context, option: click.Parameter, value: str) -> int | str:
    """Read a step, or the word ``last``."""
    if value == "last":
        return value
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise click.BadParameter(f"a step is a whole number or 'last': got {value!r}")
    return int(value)


@click.command()
@click.argument("history", type=click.Path())
@click.option(
    "--step", required=True, callback=step_or_last, metavar="K", help="Recorded step, or 'last'."
)
@output_option("File to write: .safetensors, or .pt, .pth, .bin, .ckpt.")
@click.option("--include", multiple=True, metavar="GLOB", help="Export only these tensors.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Do not export these tensors.")
def export(history: str, step: int | str, output: str, **options: Any) -> None:
    """Write the weights and buffers of one step, each in its own dtype.

    A .safetensors file, or one of torch.save: a plain state_dict, which torch.load reads with
    weights_only=True and model.load_state_dict takes. Weights that the model ties together are
    stored once, and written under all their names. (Histories from before their ties were kept have
    the first name only: load those with strict=False, and the model's own tie does the rest.)

    \b
    Example:
      weightcast export run.zarr --step 3000 -o weights.safetensors
    """
    from weightcast.recorder import export as export_step
    from weightcast.store import History

    report = export_step(History(history), step, output, **options)
    exact = f"within {report.error:g} of what was recorded" if report.error else "exact"
    click.echo(
        f"step {report.step} of {history}: {report.tensors} tensors, {report.values:,} numbers, "
        f"{exact}, {megabytes(report.bytes)} in {output}"
    )


@click.command("import")
@click.argument("checkpoints", type=click.Path(), nargs=-1, required=True)
@output_option("Folder of the history to write.")
@click.option(
    "--step-from",
    type=click.Choice(["name", "metadata"]),
    default="name",
    show_default=True,
    help="Where a checkpoint's step is: in its name (the number after 'step', or else the last "
    "whole number), or inside it (step, global_step, iteration, iter or epoch).",
)
@click.option(
    "--step-pattern",
    metavar="REGEX",
    help="Finds the step in a checkpoint's path, in its one group.",
)
@click.option(
    "--steps-per-epoch",
    type=click.IntRange(min=1),
    metavar="N",
    help="The numbers count epochs, of so many steps.",
)
@click.option("--key", help="Where the checkpoints keep the model's state_dict.")
@click.option("--include", multiple=True, metavar="GLOB", help="Import only these tensors.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Do not import these tensors.")
@click.option("--buffers", multiple=True, metavar="GLOB", help="These tensors are buffers too.")
@click.option(
    "--times", is_flag=True, help="Keep when the files were changed, as the steps' times."
)
@click.option(
    "--preset",
    type=click.Choice(["fast", "compact", "bounded"]),
    default="fast",
    show_default=True,
    help="Codec: quick, small, or with an error bound; the first two are lossless.",
)
@click.option("--error", type=float, help="With --preset bounded: largest error of a weight.")
@click.option(
    "--memory",
    default=256,
    show_default=True,
    type=click.IntRange(min=1),
    help="MB for steps that wait to be compressed.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
def import_(
    checkpoints: tuple[str, ...],
    output: str,
    overwrite: bool,
    dry_run: bool,
    preset: str,
    error: float | None,
    memory: int,
    **how: Any,
) -> None:
    """Make a history of a run that was not recorded, from its checkpoints.

    CHECKPOINTS are files (.safetensors, or of torch.save: .pt, .pth, .bin, .ckpt) and folders of
    them, or of folders as Transformers saves them (checkpoint-500/model.safetensors, also in
    several files). No code in them is run: torch.load with weights_only=True.

    A checkpoint does not say which tensors are parameters. Those that are not floating-point, and
    running_mean, running_var and num_batches_tracked, are buffers; --buffers adds others. Names
    lose a 'module.' or '_orig_mod.' that all of them have. Where dtypes differ from one checkpoint
    to the next, the widest is kept.

    Include the weights before training as step 0 if there are any: forecasts look back at them.

    \b
    Example:
      weightcast import checkpoints/ -o run.zarr --dry-run
    """
    from weightcast.recorder import import_checkpoints, plan_import
    from weightcast.store.codecs import check_preset
    from weightcast.store.output import refuse_existing

    check_preset(preset, error)
    refuse_existing(output, overwrite=overwrite, kind="history")
    with progress() as advance:
        plan = plan_import(checkpoints, progress=advance, **how)
    if dry_run:
        _show(plan, output)
        _show_notes(plan)
        return
    with progress() as advance:
        history = import_checkpoints(
            plan,
            output,
            preset=preset,
            error=error,
            memory=memory << 20,
            overwrite=overwrite,
            progress=advance,
        )
    facts = history.info()
    click.echo(
        f"imported {_summary(plan)}: {megabytes(facts.stored_bytes)} in {output} for "
        f"{megabytes(facts.raw_bytes)} of numbers (ratio {facts.ratio:.2f})"
    )
    _show_notes(plan)


def _summary(plan: ImportPlan) -> str:
    steps = plan.steps
    span = f"steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"
    return (
        f"{len(steps)} checkpoint{'s' * (len(steps) > 1)}, {span}, of {plan.parameters.size:,} "
        f"weights and {plan.buffers.size:,} buffers"
    )


def _show(plan: ImportPlan, output: str) -> None:
    rows = [(p.name, p.kind, list(p.shape), p.dtype) for p in (*plan.parameters, *plan.buffers)]
    print_table(("tensor", "kind", "shape", "dtype"), rows)
    print_table(("checkpoint", "step"), [(s.label, s.step) for s in plan.sources])
    click.echo(f"would import {_summary(plan)}, into {output}")


def _show_notes(plan: ImportPlan) -> None:
    for note in plan.notes:
        click.echo(f"weightcast: note: {note}", err=True)
