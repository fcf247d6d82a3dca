"""Commands on forecasting datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import (
    echo,
    json_option,
    list_option,
    output_option,
    parameter_options,
    progress,
    seed_option,
    workers_options,
)

if TYPE_CHECKING:
    from weightcast.store import PlanInfo


@click.group(invoke_without_command=True)
@click.pass_context
def dataset(context: click.Context) -> None:
    """Build forecasting datasets from histories, explain them, and build them again."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@dataset.command()
@click.argument("histories", metavar="HISTORY...", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Folder of the dataset to write; required but for a --dry-run.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--samples", default=800_000, show_default=True, help="Samples to draw.")
@click.option(
    "--context",
    metavar="A,B,...",
    default="1,0.7,0.4,0",
    show_default=True,
    help="Inputs, each a column: the weight at a fraction of t (0.7), some steps back (t-25), or "
    "at the last M steps of a stride (last:M/STRIDE); mean:, slope: or spread:STEPS/STRIDE of the "
    "window of the last STEPS; scale, size, fan-in or dims of its tensor; step (t), ahead (steps "
    "to the target) or ratio (target / t).",
)
@click.option(
    "--horizon",
    metavar="A,B,...",
    default="2",
    show_default=True,
    help="Target: the weight at this x t, or so many steps after t (+500). Of several, each sample "
    "has one: let the context see ahead or ratio.",
)
@list_option(
    "--edges", "Cuts between strata of falling variation, by share of candidates.", "0,0.5,0.75,1"
)
@list_option("--shares", "Share of the samples from each stratum.", "0.5,0.25,0.25")
@click.option(
    "--shortfall",
    type=click.Choice(["error", "fewer"]),
    default="error",
    show_default=True,
    help="Where a stratum has fewer candidates than samples to give: refuse, or take those.",
)
@click.option("--t-min", type=int, help="Smallest t.")
@click.option("--t-max", type=int, help="Largest t.")
@click.option(
    "--t-distribution",
    type=click.Choice(["uniform", "log"]),
    default="uniform",
    show_default=True,
    help="Draw t among all steps, or among 32 of each octave, so that early steps count as much.",
)
@click.option(
    "--tolerance",
    default=0.01,
    show_default=True,
    help="Use the nearest recorded step within this fraction of t; or, for steps counted from t, "
    "of those.",
)
@click.option(
    "--draws", type=int, help="Steps t for each weight; by default as few as give the samples."
)
@parameter_options("Sample")
@list_option("--run-shares", "Share of the samples from each history; by default all the same.")
@click.option(
    "--different-models", is_flag=True, help="Accept histories whose models are not the same."
)
@click.option(
    "--validation",
    default=0.0,
    show_default=True,
    help="Share of the weights, or runs, to hold out for validation.",
)
@click.option(
    "--validation-by",
    type=click.Choice(["weight", "run"]),
    default="weight",
    show_default=True,
    help="What is on one side only: a weight, the same in all runs, or a whole run.",
)
@seed_option
@workers_options
@click.option("--dry-run", is_flag=True, help="Print what would be done, and what it would take.")
@json_option
def build(
    histories: tuple[str, ...], output: str | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Draw samples from histories, by the paper's recipe.

    Every weight gets random steps t; the candidates are sorted by variation |w(t) - w(0)|, and
    each stratum gives its share. Each of several histories has strata of its own. The same options
    give the same bytes.

    \b
    Example:
      weightcast dataset build run.zarr -o dataset.zarr --samples 800000
      weightcast dataset build a.zarr b.zarr -o both.zarr --validation 0.1
      weightcast dataset build run.zarr --samples 5000000 --dry-run
      weightcast dataset build run.zarr -o recent.zarr --context last:33/25 --horizon +500
      weightcast dataset build run.zarr -o rich.zarr --horizon 1.5,2,+500 \\
        --context 1,0.7,0.4,0,mean:800/25,slope:800/25,spread:800/25,scale,step,ahead
    """
    from weightcast.cli.explaining import show_built, show_json, show_plan
    from weightcast.store.horizon import parse_horizon

    options["horizon"] = parse_horizon(options["horizon"])
    if dry_run:
        plan = _plan(histories, output, **options)
        show_json(plan) if as_json else show_plan(plan)
        return
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output', or '--dry-run'.")
    from weightcast.store import build_dataset, describe_dataset

    with progress() as advance:
        built = build_dataset(histories, output, progress=advance, **options)
    info = describe_dataset(built)
    show_json(info) if as_json else show_built(info)


def _plan(
    histories: tuple[str, ...],
    output: str | None,
    *,
    overwrite: bool,
    scheduler: str,
    workers: int | None,
    **recipe: Any,
) -> PlanInfo:
    """What the same command would do without ``--dry-run``; what it would refuse is refused."""
    from weightcast.store import History, Recipe, describe_plan, plan_sampling
    from weightcast.store.output import refuse_existing
    from weightcast.store.scheduling import check_scheduler

    check_scheduler(scheduler, workers)
    opened = [History(path) for path in histories]
    if output is not None:
        refuse_existing(output, overwrite=overwrite, kind="dataset", inputs=list(histories))
    plan = plan_sampling(opened, Recipe(**recipe))
    return describe_plan(plan)


@dataset.command()
@click.argument("path", metavar="DATASET", type=click.Path())
@json_option
def show(path: str, as_json: bool) -> None:
    """Explain a dataset: where its samples come from, and what would build it again.

    \b
    Example:
      weightcast dataset show dataset.zarr
    """
    from weightcast.cli.explaining import show_dataset, show_json
    from weightcast.store import Dataset, describe_dataset

    info = describe_dataset(Dataset(path))
    show_json(info) if as_json else show_dataset(info)


@dataset.command()
@click.argument("path", metavar="DATASET", type=click.Path())
@output_option("Folder of the dataset to write.")
@click.option(
    "--history",
    "histories",
    multiple=True,
    metavar="PATH",
    type=click.Path(),
    help="Where a history is now, if it has moved; once for each, in the dataset's order.",
)
@workers_options
@json_option
def rebuild(
    path: str, output: str, histories: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Draw a dataset again from its histories, and check that it is the same, bit by bit.

    Of a history that has grown since, only the steps that were there are used. Another history, or
    one whose values have changed, is refused, and nothing is left behind.

    \b
    Example:
      weightcast dataset rebuild dataset.zarr -o again.zarr
      weightcast dataset rebuild dataset.zarr -o again.zarr --history /archive/run.zarr
    """
    from weightcast.cli.explaining import show_json
    from weightcast.store import describe_dataset, rebuild_dataset

    with progress() as advance:
        again = rebuild_dataset(
            path, output, histories=histories or None, progress=advance, **options
        )
    if as_json:
        show_json(describe_dataset(again))
    else:
        echo(f"{len(again):,} samples, bit by bit those of {path}, in {output}")
