"""Commands on forecasters: ``fit`` and ``evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import (
    json_option,
    output_option,
    print_errors,
    progress,
    seed_option,
)

if TYPE_CHECKING:
    from weightcast.store import Dataset

HOLD_OUT = 0.1


@click.command()
@click.argument("dataset", type=click.Path())
@output_option("Forecaster file to write (.safetensors).")
@click.option(
    "--model",
    type=click.Choice(["introspection", "last-value", "linear-fit"]),
    default="introspection",
    show_default=True,
    help="What to fit.",
)
@click.option(
    "--steps", default=30_000, show_default=True, type=click.IntRange(min=1), help="Training steps."
)
@click.option(
    "--batch-size",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="Samples in a batch.",
)
@click.option(
    "--hidden", default=40, show_default=True, type=click.IntRange(min=1), help="Hidden units."
)
@click.option(
    "--learning-rate",
    default=5e-4,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Of Adam; halved every 8,000 steps.",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the weights kept for validation; by default what the dataset itself holds out, "
    f"or else {HOLD_OUT}.",
)
@seed_option
def fit(
    dataset: str,
    output: str,
    model: str,
    hold_out: float | None,
    seed: int,
    overwrite: bool,
    **how: Any,
) -> None:
    """Fit a forecaster to a dataset, and say how it does on held-out weights or runs.

    The training options are those of the Introspection network; the other models need none.

    \b
    Example:
      weightcast fit dataset.zarr -o introspection.safetensors
    """
    from weightcast.predictor import MODELS, evaluate_dataset, save
    from weightcast.store import Dataset
    from weightcast.store.output import refuse_existing

    refuse_existing(output, overwrite=overwrite, kind="file", inputs=[dataset])
    samples = Dataset(dataset)
    rest, held, how_held, words = _held_out(samples, hold_out, seed)
    options = how | {"random_state": seed} if model == "introspection" else {}
    recipe = samples.recipe
    forecaster = MODELS[model](context=recipe.context, horizon=recipe.horizon, **options)
    with progress() as advance:
        forecaster.fit(samples.X, samples.y, rows=rest, progress=advance)
    errors = evaluate_dataset(forecaster, samples, held)
    card = {
        "dataset": {"source": samples.source, "recipe": recipe.to_json()},
        "held_out": {**how_held, "errors": [vars(e) for e in errors]},
    }
    save(forecaster, output, card=card, overwrite=overwrite)
    print_errors(errors, f"{len(held):,} held-out samples")
    click.echo(f"held out: {words}")
    click.echo(f"{model} forecaster in {output}")


def _held_out(
    dataset: Dataset, share: float | None, seed: int
) -> tuple[Any, Any, dict[str, Any], str]:
    """Rows to fit, rows to validate, and how they were told apart: for the card, and in words."""
    from weightcast.store import UsageError

    recipe = dataset.recipe
    if share is None and recipe.validation:
        rest, held = dataset.training_rows, dataset.validation_rows
        how: dict[str, Any] = {"by": "dataset", "share": recipe.validation, "seed": recipe.seed}
        words = f"the {recipe.validation_by}s that the dataset holds out for validation"
    else:
        share = HOLD_OUT if share is None else share
        rest, held = dataset.split(share, seed)
        how = {"share": share, "seed": seed}
        words = f"{share:g} of the weights, by --hold-out"
        if recipe.validation:
            words += "; those that the dataset itself holds out were not set apart"
    if not len(rest) or not len(held):
        raise UsageError(
            f"fitting and validation need a sample each: {dataset.path} has {len(rest)} and "
            f"{len(held)}; give another --hold-out, or build the dataset with another --validation"
        )
    return rest, held, how, words


@click.command()
@click.argument("forecaster", type=click.Path())
@click.argument("data", type=click.Path())
@click.option(
    "--points",
    default=10,
    show_default=True,
    type=click.IntRange(min=1),
    help="Of a history: steps t to evaluate at.",
)
@click.option(
    "--tolerance",
    default=0.01,
    show_default=True,
    help="Of a history: use the nearest recorded step within this fraction of t.",
)
@click.option(
    "--all-samples",
    is_flag=True,
    help="Of a dataset that holds some out for validation: use the others too.",
)
@json_option
def evaluate(
    forecaster: str, data: str, points: int, tolerance: float, all_samples: bool, as_json: bool
) -> None:
    """Measure a forecaster on a history or a dataset, beside the last value and a straight line.

    \b
    Example:
      weightcast evaluate introspection.safetensors other.zarr
    """
    import json

    from weightcast.predictor import evaluate_dataset, evaluate_history, load
    from weightcast.store import History, open_stored

    model, opened = load(forecaster), open_stored(data)
    if isinstance(opened, History):
        with progress() as advance:
            errors = evaluate_history(
                model, opened, points=points, tolerance=tolerance, progress=advance
            )
        title = f"{forecaster} on {data}"
    else:
        rows = opened.validation_rows
        held = len(rows) > 0 and not all_samples
        errors = evaluate_dataset(model, opened, rows if held else None)
        title = f"{forecaster} on {data}" + (", samples held out for validation" if held else "")
    if as_json:
        click.echo(json.dumps([vars(e) | {"skill": e.skill} for e in errors], indent=2))
    else:
        print_errors(errors, title)
