"""Commands on forecasting datasets."""

from __future__ import annotations

from typing import Any

import click

from weightcast.cli.console import output_option, print_table, progress, seed_option


def numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[float, ...]:
    """Read an option's numbers, separated by commas."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"must be numbers separated by commas: got {value!r}") from None


@click.group(invoke_without_command=True)
@click.pass_context
def dataset(context: click.Context) -> None:
    """Build forecasting datasets from histories."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@dataset.command()
@click.argument("history", type=click.Path())
@output_option("Folder of the dataset to write.")
@click.option("--samples", default=800_000, show_default=True, help="Samples to draw.")
@click.option(
    "--context",
    callback=numbers,
    metavar="A,B,...",
    default="1,0.7,0.4,0",
    show_default=True,
    help="Inputs: the weight at these fractions of t.",
)
@click.option("--horizon", default=2.0, show_default=True, help="Target: the weight at this x t.")
@click.option(
    "--edges",
    callback=numbers,
    metavar="A,B,...",
    default="0,0.5,0.75,1",
    show_default=True,
    help="Cuts between strata of falling variation.",
)
@click.option(
    "--shares",
    callback=numbers,
    metavar="A,B,...",
    default="0.5,0.25,0.25",
    show_default=True,
    help="Share of the samples from each stratum.",
)
@click.option(
    "--tolerance",
    default=0.01,
    show_default=True,
    help="Use the nearest recorded step within this fraction of t.",
)
@click.option("--t-min", type=int, help="Smallest t.")
@click.option("--t-max", type=int, help="Largest t.")
@seed_option
@click.option(
    "--scheduler",
    type=click.Choice(["threads", "processes", "synchronous"]),
    default="threads",
    show_default=True,
    help="Dask's scheduler; the result is the same.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Number of workers.")
def build(history: str, output: str, samples: int, **options: Any) -> None:
    """Draw samples from a history, by the paper's recipe.

    Every weight gets random steps t; the candidates are sorted by variation |w(t) - w(0)|, and
    each stratum gives its share. The same options give the same bytes.

    \b
    Example:
      weightcast dataset build run.zarr -o dataset.zarr --samples 800000
    """
    from weightcast.store import build_dataset

    with progress() as advance:
        built = build_dataset(history, output, samples, progress=advance, **options)
    rows = []
    for stratum, count in enumerate(built.recipe.counts()):
        moved = built.variation[built.stratum == stratum]
        between = f"{moved.min():.3g} to {moved.max():.3g}" if count else "-"
        rows.append((f"{stratum}", f"{count:,}", between))
    print_table(("stratum", "samples", "variation"), rows)
    click.echo(
        f"{len(built):,} samples of {len(built.recipe.context)} past values and one later value, "
        f"t from {built.step.min()} to {built.step.max()}, in {output}"
    )
