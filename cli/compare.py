"""The ``compare`` command: all forecasters on the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import (
    echo,
    json_option,
    percent,
    plot_option,
    print_json,
    print_table,
    progress,
    seed_option,
    thousandths,
)

if TYPE_CHECKING:
    from weightcast.predictor import Comparison


@click.command()
@click.argument("datasets", metavar="DATASET...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Compare these only, beside the last value and the linear fit; by default, all.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="An option of a model, such as introspection.hidden=80; once for each.",
)
@click.option(
    "--folds",
    default=5,
    show_default=True,
    type=click.IntRange(min=2),
    help="Parts of the runs, each of which is tested on once; at most one for each run.",
)
@seed_option
@plot_option("Draw every model's errors")
@click.option("--overwrite", is_flag=True, help="Replace the picture if it exists.")
@json_option
def compare(
    datasets: tuple[str, ...],
    models: tuple[str, ...],
    settings: tuple[str, ...],
    folds: int,
    seed: int,
    plot: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compare forecasters, cross-validated by run: no run is both learned from and tested on.

    The samples of a single run are divided by weight instead. All forecasters learn from the same
    samples and are tested on the same; the best stands first.

    \b
    Example:
      weightcast compare a.zarr b.zarr
      weightcast compare a.zarr --model introspection --model wnn --set wnn.hidden=20
    """
    from weightcast.predictor import compare as run_comparison
    from weightcast.store import Dataset
    from weightcast.store.spread_figure import check_picture

    options = _options(settings)
    opened = [Dataset(path) for path in datasets]
    if plot is not None:
        check_picture(plot, overwrite=overwrite, inputs=datasets)
    with progress() as advance:
        result = run_comparison(
            opened, models, options=options, folds=folds, seed=seed, progress=advance
        )
    if plot is not None:
        from weightcast.predictor.figures import save_comparison_figure

        save_comparison_figure(result, plot, overwrite=overwrite)
    if as_json:
        print_json(result.to_json())
        return
    _show(result)
    if plot is not None:
        echo(f"picture in {plot}")


def _options(settings: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Options of models, by name."""
    from weightcast.predictor.models import parse_setting
    from weightcast.store import UsageError

    found: dict[str, dict[str, Any]] = {}
    for text in settings:
        name, dot, rest = text.partition(".")
        if not dot or "=" in name:
            raise UsageError(
                f"--set needs NAME.KEY=VALUE, such as introspection.hidden=80: got {text!r:.80}"
            )
        key, value = parse_setting(rest)
        found.setdefault(name, {})[key] = value
    return found


def _show(result: Comparison) -> None:
    rows = [
        (
            model.name,
            thousandths(model.error),
            f"{thousandths(min(model.errors))} to {thousandths(max(model.errors))}",
            percent(model.skill),
            f"{model.seconds_to_fit:.3g}",
            f"{model.seconds_per_million:.2g}",
        )
        for model in result.models
    ]
    columns = ("L1 error x 1000", "median", "range", "skill", "s to fit", "s per million weights")
    title = f"{result.folds} folds by {result.by}, {result.samples:,} samples"
    print_table(columns, rows, title)
    if result.by == "weight":
        click.echo(
            "all samples are of one run: it was divided by weight, and the errors are those on "
            "other weights of the same run"
        )
    else:
        click.echo(f"of {result.runs} runs; no run is on both sides of a fold")
    for name, reason in result.left_out.items():
        echo(f"left out: {name}: {reason}")
