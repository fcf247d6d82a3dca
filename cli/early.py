"""The command ``early``: the early phase of a run, from its history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import (
    echo,
    json_option,
    list_option,
    parameter_options,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from weightcast.store.early_report import EarlyReport, EarlyRow


@click.command()
@click.argument("history", type=click.Path())
@click.option(
    "--until", type=click.IntRange(min=0), metavar="STEP", help="Measure up to this step."
)
@list_option("--steps", "Recorded steps to measure, beside the first.")
@click.option(
    "--points",
    type=click.IntRange(min=3),
    default=40,
    show_default=True,
    help="How many steps to choose about, evenly in log(step), if none are given.",
)
@click.option(
    "--moved",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    metavar="X",
    help="Count weights that moved by more than X times their own initial magnitude.",
)
@click.option("--gradient", metavar="METRIC", help="Logged metric that is the gradient magnitude.")
@click.option("--loss", metavar="METRIC", help="Logged metric that is the loss.")
@click.option("--accuracy", metavar="METRIC", help="Logged metric that is the accuracy.")
@parameter_options("Measure")
@click.option("-o", "--output", type=click.Path(), help="Write the table, as CSV.")
@click.option(
    "--figure",
    type=click.Path(),
    metavar="PICTURE",
    help="Draw the table: a .png, .svg or .pdf file; needs the extra 'plot'.",
)
@click.option("--overwrite", is_flag=True, help="Replace output and picture if they exist.")
@json_option
def early(
    history: str,
    output: str | None,
    figure: str | None,
    overwrite: bool,
    as_json: bool,
    steps: tuple[float, ...],
    **options: Any,
) -> None:
    """Show how a run moves in its first steps, and its sub-phases.

    Gradient magnitude or step size, weight magnitude, distance from the start and to the end,
    cosines, sign changes, weights that moved, loss and accuracy, at recorded steps.

    \b
    Example:
      weightcast early run.zarr --until 4000 --figure early.png
    """
    from weightcast.store import History
    from weightcast.store.early import measure_early, save_table
    from weightcast.store.early_figure import save_early_figure
    from weightcast.store.output import refuse_existing
    from weightcast.store.spread_figure import check_picture

    if broken := [step for step in steps if not step.is_integer()]:
        raise click.UsageError(f"--steps must be whole numbers: got {broken[0]:g}")
    opened = History(history)
    if output is not None:
        refuse_existing(output, overwrite=overwrite, kind="file", inputs=[opened.path])
    if figure is not None:
        check_picture(figure, overwrite=overwrite, inputs=[opened.path])
    with progress() as advance:
        report = measure_early(opened, steps=[int(s) for s in steps], progress=advance, **options)
    if output is not None:
        save_table(report, output, overwrite=overwrite)
    if figure is not None:
        save_early_figure(report, figure, overwrite=overwrite)
    if as_json:
        print_json(report.to_json())
        return
    _show(report)
    for what, path in (("table", output), ("picture", figure)):
        if path is not None:
            echo(f"{what} in {path}")


def _show(report: EarlyReport) -> None:
    start, end = report.start, report.end
    logged: list[str] = [name for name in ("loss", "accuracy") if name in report.metrics]
    gradient = ["gradient"] if "gradient" in report.metrics else []
    columns = (
        *("step", *gradient, "step size", "mean |w|", f"from {start}", f"to {end}"),
        *(f"cos {start}", f"cos {end}", "signs", "moved", *logged),
    )
    print_table(columns, [_cells(row, gradient, logged) for row in report.rows])
    echo(
        f"{report.weights:,} weights; from, to: Euclidean distance from step {start} and to step "
        f"{end}; cos: cosine with them; signs: share with another sign than at step {start}; "
        f"moved: share that moved by more than {report.moved:g} of its magnitude at step {start}"
    )
    for column, name in report.metrics.items():
        echo(f"{column}: {'recorded gradients' if name == 'gradients' else f'metric {name}'}")
    if report.gradientless:
        echo(
            f"note: up to {report.gradientless:,} of the weights had no gradient at a recorded "
            "step (frozen, unused, or it was NaN): the mean is that of the others"
        )
    if start:
        echo(f"note: step 0 is not recorded: the start is step {start}")
    if report.diverged is not None:
        echo(
            f"note: from step {report.diverged} on weights are not finite: what is computed of "
            f"them is unknown (-), as is what compares with step {end} if it is one of those"
        )
    echo(_phases(report))


def _phases(report: EarlyReport) -> str:
    found = report.phases
    if found.minimum is None:
        return f"sub-phases: none found in the {found.of}: {found.why}"
    said = f"sub-phases of the {found.of}, smoothed over three rows: minimum at step "
    said += f"{found.minimum}, the highest after that at step {found.peak}"
    if found.settled is not None:
        said += f", settled from step {found.settled} on"
    return f"{said}; {found.why}" if found.why else said


def _cells(row: EarlyRow, gradient: list[str], logged: list[str]) -> list[str]:
    plain = [*gradient, "step_size", "magnitude", "from_start", "to_end"]
    return [
        str(row.step),
        *(_number(getattr(row, name), ".4g") for name in plain),
        *(_number(value, ".4f") for value in (row.cosine_start, row.cosine_end)),
        *(_number(value, ".2%") for value in (row.sign_changes, row.moved)),
        *(_number(getattr(row, name), ".4g") for name in logged),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
