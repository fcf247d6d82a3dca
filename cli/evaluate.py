"""The ``evaluate`` command: how good a forecaster is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import (
    echo,
    json_option,
    plot_option,
    print_errors,
    print_json,
    print_linear_fit,
    progress,
    trust_option,
)

if TYPE_CHECKING:
    from weightcast.predictor import Errors, Forecaster
    from weightcast.store import Dataset, History


@click.command()
@click.argument("forecaster")
@click.argument("data", metavar="DATA...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--by",
    metavar="A,B,...",
    default="stratum,kind,t,horizon",
    show_default=True,
    help="What to group errors by. A history has no strata; horizons are told apart where there "
    "are several.",
)
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
    help="Of a history: use the nearest recorded step within this fraction of t; or, for steps "
    "counted from t, of those.",
)
@click.option(
    "--horizon",
    metavar="A,B,...",
    help="Of a history: look ahead to this x t, or so many steps (+500); by default to what the "
    "forecaster was made for.",
)
@click.option(
    "--all-samples",
    is_flag=True,
    help="Of a dataset of which some are held out, by itself or by the forecaster's fit: use the "
    "others too.",
)
@trust_option
@plot_option("Draw forecast change against true change, and the error by t")
@click.option("--overwrite", is_flag=True, help="Replace the picture if it exists.")
@json_option
def evaluate(
    forecaster: str,
    data: tuple[str, ...],
    by: str,
    horizon: str | None,
    trust: tuple[str, ...],
    plot: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a forecaster on histories or datasets, beside the last value and a straight line.

    FORECASTER is a file, or the name of one that is shipped or needs no training, such as
    introspection-mnist or line.

    \b
    Example:
      weightcast evaluate introspection.safetensors other.zarr
      weightcast evaluate line a.zarr b.zarr --horizon +100,+1000 --plot line.png
    """
    from weightcast.predictor import load_with_card
    from weightcast.predictor.pairs import Pairs
    from weightcast.store import History, open_stored
    from weightcast.store.horizon import parse_horizon
    from weightcast.store.spread_figure import check_picture

    options["horizon"] = None if horizon is None else parse_horizon(horizon)
    options["by"] = _groupings(by)
    _refuse_folder(forecaster)
    model, card = load_with_card(forecaster, trusted=trust)
    opened = [open_stored(path) for path in data]
    if plot is not None:
        check_picture(plot, overwrite=overwrite, inputs=[forecaster, *data])
        options["by"] = list(dict.fromkeys((*options["by"], "t")))
    parts: list[Any] = []
    for path, stored in zip(data, opened, strict=True):
        pairs = None if plot is None else Pairs()
        title = f"{forecaster} on {path}"
        title, errors = _measured(model, card, stored, title, pairs, **options)
        parts.append((title, errors, pairs))
    if plot is not None:
        from weightcast.predictor.figures import save_errors_figure

        save_errors_figure(parts, plot, overwrite=overwrite)
    if as_json:
        named = zip(data, parts, strict=True)
        print_json([{"data": path} | e.to_json() for path, (_, es, _) in named for e in es])
        return
    for title, errors, _ in parts:
        print_errors(errors, title)
    print_linear_fit(model.sees if isinstance(s, History) else s.recipe.sees for s in opened)
    if plot is not None:
        echo(f"picture in {plot}")


def _groupings(by: str) -> list[str]:
    """What errors are grouped by; an unknown name is told the nearest one."""
    from weightcast.predictor import GROUPINGS
    from weightcast.predictor.models import nearest
    from weightcast.store import UsageError

    names = [name.strip() for name in by.split(",")]
    for name in names:
        if name not in GROUPINGS:
            raise UsageError(f"no grouping {name!r:.80}{nearest(name, GROUPINGS)}")
    return names


def _refuse_folder(forecaster: str) -> None:
    """A history or a dataset where the forecaster should be: the arguments are swapped."""
    from pathlib import Path

    from weightcast.predictor import shipped
    from weightcast.predictor.by_name import UNTRAINED
    from weightcast.store import UsageError

    if Path(forecaster).is_dir() and forecaster not in (*UNTRAINED, *shipped()):
        raise UsageError(
            f"{forecaster} is a folder, not a forecaster: give the forecaster first, then the data"
        )


def _measured(
    model: Forecaster,
    card: dict[str, Any],
    stored: History | Dataset,
    title: str,
    pairs: Any,
    *,
    by: list[str],
    all_samples: bool,
    **options: Any,
) -> tuple[str, list[Errors]]:
    """Errors on a history or a dataset, and what they are of."""
    from weightcast.predictor import evaluate_dataset, evaluate_history
    from weightcast.store import History, UsageError

    with progress() as advance:
        if isinstance(stored, History):
            return title, evaluate_history(
                model, stored, by=by, pairs=pairs, progress=advance, **options
            )
        if options["horizon"] is not None:
            raise UsageError(
                f"--horizon is for histories: the samples of {stored.path} have their own"
            )
        rows, which = (None, "") if all_samples else _held_out(card, stored)
        errors = evaluate_dataset(model, stored, rows, by=by, pairs=pairs, progress=advance)
    asked, used = len(stored if rows is None else rows), errors[-1].count
    if used < asked:
        ahead = ", ".join(str(h) for h in stored.recipe.horizons if h in model.horizons)
        which += f", {used:,} of {asked:,}: those to {ahead}"
    return title + which, errors


def _held_out(card: dict[str, Any], dataset: Dataset) -> tuple[Any, str]:
    """Samples that the forecaster did not learn from, if that is known, and which they are."""
    from weightcast.predictor.cards import fit_split

    split = fit_split(card, dataset)
    if split is not None and split["by"] == "weight":
        rows = dataset.split(split["share"], split["seed"])[1]
        return rows, ", weights that its fit held out"
    if len(rows := dataset.validation_rows):
        return rows, ", samples held out for validation"
    return None, ""
