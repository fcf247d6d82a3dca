"""The ``fit`` command: a dataset becomes a forecaster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import (
    echo,
    echo_line,
    output_option,
    plot_option,
    print_errors,
    print_linear_fit,
    progress,
    seed_option,
)

if TYPE_CHECKING:
    from pathlib import Path

    from weightcast.predictor import Forecaster
    from weightcast.store import Dataset

HOLD_OUT = 0.1


class _Interrupted(click.ClickException):
    exit_code = 130


def _list_models(context: click.Context, option: click.Parameter, value: bool) -> None:
    """Print the models and their options, and end."""
    if not value or context.resilient_parsing:
        return
    from weightcast.predictor.models import describe_models

    for model in describe_models():
        click.echo(f"{model['name']}: {model['summary']}")
        for name, default in model["options"].items():
            note = model["notes"].get(name)
            click.echo(f"    {name}={default}" + (f" ({note})" if note else ""))
    context.exit()


@click.command()
@click.argument("dataset", type=click.Path())
@output_option("Forecaster file to write: .safetensors, or .skops for a model of scikit-learn's.")
@click.option(
    "--model",
    default="introspection",
    show_default=True,
    metavar="NAME",
    help="What to fit; see --list-models.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the model, such as hidden=40; once for each.",
)
@click.option(
    "--list-models",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_models,
    help="Print the models, their options and defaults, and exit.",
)
@click.option(
    "--context", metavar="ENTRIES", help="Learn from these columns of the dataset; by default, all."
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the weights kept for validation; by default what the dataset itself holds out, "
    f"or else {HOLD_OUT}.",
)
@plot_option("Draw training and validation error over the steps")
@click.option("--resume", is_flag=True, help="Go on with a training that was interrupted.")
@seed_option
def fit(
    dataset: str,
    output: str,
    model: str,
    settings: tuple[str, ...],
    context: str | None,
    hold_out: float | None,
    plot: str | None,
    resume: bool,
    seed: int,
    overwrite: bool,
) -> None:
    """Fit a forecaster to a dataset, and say how it does on held-out weights or runs.

    A training that is interrupted leaves its state beside the output, in FILE.training: --resume
    goes on from there, and gives the file that an uninterrupted one would have given. With --set
    patience=5 it ends when the error on what is held out has not fallen for five points of its
    curve.

    \b
    Example:
      weightcast fit dataset.zarr -o introspection.safetensors
      weightcast fit dataset.zarr -o wnn.safetensors --model wnn --set patience=5 --plot curve.png
      weightcast fit dataset.zarr -o ridge.skops --model ridge --set alpha=0.1
    """
    from weightcast.cli import fit_notes
    from weightcast.predictor import evaluate_dataset, make_card, make_forecaster, save
    from weightcast.predictor.models import parse_setting
    from weightcast.store import Context, Dataset
    from weightcast.store.output import refuse_existing

    refuse_existing(output, overwrite=overwrite, kind="file", inputs=[dataset])
    samples = Dataset(dataset)
    entries = Context.of(samples.recipe.context if context is None else context).entries
    options = dict(map(parse_setting, settings))
    horizon = samples.recipe.horizon
    forecaster = make_forecaster(model, options, context=entries, horizon=horizon, seed=seed)
    inputs = samples.inputs(entries)
    _check_outputs(forecaster, output, plot, overwrite=overwrite)
    plot = fit_notes.curve_picture(forecaster, plot)
    fit_notes.warn_of_mixture(entries, samples)
    rest, held, split, words = _held_out(samples, hold_out, seed)
    if options.get("patience") is not None:
        words += "; the training stopped where the error on them was lowest"
    state = _state(forecaster, output, resume=resume, overwrite=overwrite)
    _train(forecaster, state, X=inputs, y=samples.y, rows=rest, validation_rows=held)
    errors = evaluate_dataset(forecaster, samples, held)
    trust = fit_notes.needed_trust(forecaster)
    more: dict[str, Any] = {"trust": trust} if trust else {}
    if (steps := getattr(forecaster, "steps_", None)) is not None:
        more["steps_taken"] = steps
    card = make_card(
        [samples],
        errors=[e.to_json() for e in errors],
        held_out=words,
        split=split,
        seed=seed,
        model=model,
        options=options,
        context=list(entries),
        **more,
    )
    save(forecaster, output, card=card, overwrite=overwrite)
    state.unlink(missing_ok=True)
    print_errors(errors, f"{len(held):,} held-out samples")
    print_linear_fit([samples.recipe.sees])
    echo(f"held out: {words}")
    fit_notes.tell_early_stop(forecaster)
    if plot is not None:
        fit_notes.draw_curve(forecaster, errors, plot, f"{model} on {dataset}", overwrite=overwrite)
    echo(f"{model} forecaster in {output}")
    fit_notes.tell_trust(trust)


def _check_outputs(
    forecaster: Forecaster, output: str, plot: str | None, *, overwrite: bool
) -> None:
    """Refuse names that do not fit what is written, before the training."""
    from pathlib import Path

    from weightcast.predictor.files import check_suffix
    from weightcast.predictor.headers import SKLEARN, Header
    from weightcast.predictor.regressors import SklearnForecaster
    from weightcast.store.extras import require_skops
    from weightcast.store.output import check_writable
    from weightcast.store.spread_figure import check_picture

    of_sklearn = isinstance(forecaster, SklearnForecaster)
    check_suffix(Path(output), Header(SKLEARN if of_sklearn else "torch", {}, ()))
    if of_sklearn:
        require_skops()
    check_writable(Path(output))
    if plot is not None:
        check_picture(plot, overwrite=overwrite, inputs=[output])


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
        how = {"by": "weight", "share": share, "seed": seed}
        words = f"{share:g} of the weights, by --hold-out"
        if recipe.validation:
            words += "; those that the dataset itself holds out were not set apart"
    if not len(rest) or not len(held):
        raise UsageError(
            f"fitting and validation need a sample each: {dataset.path} has {len(rest)} and "
            f"{len(held)}; give another --hold-out, or build the dataset with another --validation"
        )
    return rest, held, how, words


def _state(forecaster: Forecaster, output: str, *, resume: bool, overwrite: bool) -> Path:
    """Where the training's state is; one that is not to be gone on from is not there any more."""
    from pathlib import Path

    from weightcast.predictor.network import Network
    from weightcast.store import OutputExistsError

    state = Path(f"{output}.training")
    if state.exists() and resume and not isinstance(forecaster, Network):
        raise OutputExistsError(
            f"{state} is the state of a network's training, which a {type(forecaster).__name__} "
            "cannot go on with: choose another output, or begin anew with --overwrite"
        )
    if state.exists() and not resume:
        if not overwrite:
            raise OutputExistsError(
                f"{state} is the state of a training that was interrupted: go on from it with "
                "--resume, or begin anew with --overwrite"
            )
        state.unlink()
    elif resume and not state.exists():
        echo_line(f"no state of an interrupted training in {state}: starting from the beginning")
    return state


def _train(forecaster: Forecaster, state: Path, **samples: Any) -> None:
    """Fit; if that is interrupted, say how to go on."""
    try:
        with progress() as advance:
            forecaster.fit(**samples, checkpoint=state, progress=advance)
    except KeyboardInterrupt:
        if not state.exists():
            raise
        raise _Interrupted(
            f"interrupted: the same command with --resume goes on from {state}"
        ) from None
