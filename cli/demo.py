"""The ``demo`` command."""

from __future__ import annotations

import click

from weightcast.cli.console import print_table, progress


@click.command()
@click.option(
    "-o", "--output", default="demo", show_default=True, type=click.Path(), help="Folder to write."
)
@click.option(
    "--seeds",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Networks to train in every arm.",
)
@click.option(
    "--steps",
    default=4000,
    show_default=True,
    type=click.IntRange(min=100),
    help="Training steps of every network.",
)
def demo(output: str, seeds: int, steps: int) -> None:
    """Run the whole pipeline on scikit-learn's digits, and say what came of it.

    Records a small network, fits the Introspection forecaster to its history, and trains another
    network plain and with jumps, beside a tuned schedule and weight averaging. Writes a table and
    a picture; a folder that an earlier demo made is written again.
    """
    from weightcast.experiments import run_demo
    from weightcast.experiments.report import table, verdict

    with progress() as advance:
        result = run_demo(output, seeds=seeds, steps=steps, progress=advance)
    print_table(*table(result), title=f"Medians of {seeds} seeds, each from one set of weights")
    click.echo(verdict(result))
    click.echo(f"picture: {output}/demo.png; numbers: {output}/demo.json")
