"""The command ``variation``: how far the weights of a history moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import (
    echo,
    json_option,
    list_option,
    parameter_options,
    print_table,
    progress,
    seed_option,
    workers_options,
)

if TYPE_CHECKING:
    from weightcast.store import GroupVariation, VariationReport

DRAWN = 5  # trajectories in a panel of the picture


@click.command()
@click.argument("history", type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Write both measures of every weight: a .zarr group, or a .parquet file.",
)
@click.option(
    "--plot",
    type=click.Path(),
    metavar="PICTURE",
    help="Draw histograms, and trajectories of weights drawn from them: .png, .svg or .pdf.",
)
@click.option("--overwrite", is_flag=True, help="Replace output and picture if they exist.")
@list_option(
    "--quantiles",
    "Quantiles to print; each is the value of a weight.",
    "0,0.25,0.5,0.75,0.9,0.99,1",
)
@click.option(
    "--still",
    default=0.01,
    show_default=True,
    help="A weight barely moved: at most this fraction of the largest value of its group.",
)
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many of the most changed weights to name.",
)
@click.option(
    "--by",
    type=click.Choice(["change", "deviation"]),
    default="change",
    show_default=True,
    help="What the most changed weights, and those to draw, are found by.",
)
@parameter_options("Measure")
@click.option("--from-step", type=int, help="Measure from the first recorded step from here on.")
@click.option("--to-step", type=int, help="Measure up to the last recorded step up to here.")
@seed_option
@workers_options
@json_option
def variation(
    history: str,
    output: str | None,
    plot: str | None,
    overwrite: bool,
    as_json: bool,
    seed: int,
    **options: Any,
) -> None:
    """Show how far the weights of a history moved.

    By two measures, for the whole model, each kind of parameter and each tensor: the change
    |w(T) - w(0)|, and the deviation, which is the square root of the mean of (w(t) - w(0))^2 over
    the recorded steps after the first.

    \b
    Example:
      weightcast variation run.zarr
      weightcast variation run.zarr --top 100 --plot moved.png -o moved.parquet
    """
    import json

    from weightcast.store import History, measure_variation
    from weightcast.store.spread_figure import check_picture, save_variation_figure

    opened = History(history)
    if plot is not None:
        check_picture(plot, overwrite=overwrite, inputs=[opened.path])
    with progress() as advance:
        report = measure_variation(
            opened,
            output=output,
            draw=DRAWN if plot is not None else 0,
            seed=seed,
            overwrite=overwrite,
            progress=advance,
            **options,
        )
    if plot is not None:
        save_variation_figure(report, opened, plot, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
        return
    _show(report)
    if output is not None:
        echo(f"both measures of every weight in {output}")
    if plot is not None:
        echo(f"picture in {plot}")


def _show(report: VariationReport) -> None:
    first, last = report.first_step, report.last_step
    titles = {
        "change": f"change: |w({last}) - w({first})|",
        "deviation": f"deviation: square root of the mean of (w(t) - w({first}))^2",
    }
    quantiles = [_quantile(q) for q in report.quantiles]
    columns = ("parameters", "weights", *quantiles, "mean", "barely", "never")
    for measure, title in titles.items():
        print_table(columns, [_row(group, measure) for group in report.groups], title)
    if report.top:
        rows = [(str(w), f"{w.change:.4g}", f"{w.deviation:.4g}") for w in report.top]
        print_table(("most changed", "change", "deviation"), rows)
    click.echo(
        f"{report.model.weights:,} weights at {report.steps:,} steps from {first} to {last}; "
        f"barely: share that moved at most {report.still:g} of the largest of its group; never: "
        "exactly 0"
    )
    for group in report.groups:
        if group.not_finite:
            echo(
                f"note: {_name(group)}: {group.not_finite:,} not finite, and left out: the weight "
                "itself at one of the steps, or its change or deviation, is NaN or infinite"
            )


def _quantile(q: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "largest"}.get(q, f"{100 * q:.6g} %")


def _name(group: GroupVariation) -> str:
    return f"every {group.name}" if group.what == "kind" else group.name


def _row(group: GroupVariation, measure: str) -> tuple[str, ...]:
    spread = group.change if measure == "change" else group.deviation
    start = (_name(group), f"{group.weights:,}")
    if spread is None:
        return start
    return (
        *start,
        *(f"{value:.3g}" for value in (*spread.quantiles, spread.mean)),
        f"{spread.still:.1%}",
        f"{spread.unmoved:.1%}",
    )
