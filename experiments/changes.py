"""How far the weights of several networks moved: figures 4 to 9 of Sinha et al. 2017."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from weightcast.experiments.saving import save
from weightcast.store import History, UsageError, VariationReport, measure_variation
from weightcast.store.output import refuse_existing, write_text
from weightcast.store.spread import QUANTILES, Measure
from weightcast.store.spread_figure import check_picture, draw_measure

WIDTH, HEIGHT = 4.4, 6.4  # inches of a network
NAMES: dict[Measure, str] = {  # the paper's
    "change": "net change, in units of the weight",
    "deviation": "root second moment, in units of the weight",
}


def changes(
    histories: Mapping[str, History], *, quantiles: tuple[float, ...] = QUANTILES
) -> dict[str, VariationReport]:
    """Measure how far the weights of each history moved.

    Parameters
    ----------
    histories : mapping of str to History
        By the title that they shall have.
    quantiles : tuple of float
        Which to report, each from 0 to 1.

    Returns
    -------
    dict of str to VariationReport
        Its "change" is the paper's net change, its "deviation" the paper's root second moment.

    Raises
    ------
    UsageError
        If there is no history, or as of `measure_variation`.
    SamplingError
        If a history has fewer than two steps.

    Notes
    -----
    Section 3 of Sinha et al. 2017. One decode of each history, a chunk at a time.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> table = ParameterTable.of([("w", (2,), "float32", "weight")])
    >>> with HistoryWriter.create(path, table) as writer:
    ...     writer.append([0, 10], [0.0, 0.5], np.float32([[1, 2], [1, 5]]))
    >>> changes({"N0": History(path)}, quantiles=(0.5, 1))["N0"].model.change.quantiles
    (0.0, 3.0)
    """
    if not histories:
        raise UsageError("a picture of weights needs one history at least: got none")
    return {
        title: measure_variation(history, quantiles=quantiles, top=0)
        for title, history in histories.items()
    }


def table(report: VariationReport) -> dict[str, Any]:
    """Both measures of the whole model as plain data: what the picture shows, for its JSON file.

    Returns
    -------
    dict
        Steps, weights, and of each measure its quantiles by name, mean, largest value, shares of
        weights that barely or never moved, and the histogram: 100 equal bins from 0 to the largest.
        None for a measure if no weight is finite.
    """
    group = report.model
    facts: dict[str, Any] = {
        "first_step": report.first_step,
        "last_step": report.last_step,
        "steps": report.steps,
        "weights": group.weights,
        "not_finite": group.not_finite,
        "still": report.still,
    }
    for measure in get_args(Measure):
        spread = group.spread(measure)
        facts[measure] = spread and {
            "quantiles": {
                f"{q:g}": v for q, v in zip(report.quantiles, spread.quantiles, strict=True)
            },
            "mean": spread.mean,
            "largest": spread.largest,
            "barely_moved": spread.still,
            "never_moved": spread.unmoved,
            "histogram": list(spread.histogram),
        }
    return facts


def save_changes(
    path: str | Path,
    histories: Mapping[str, History],
    *,
    quantiles: tuple[float, ...] = QUANTILES,
    overwrite: bool = False,
) -> dict[str, VariationReport]:
    """Draw histograms of change and root second moment, several networks side by side.

    Parameters
    ----------
    path : str or Path
        Picture to write: .png, .svg or .pdf. The numbers stand beside it, in a file of the same
        name that ends in .json: the `table` of each history, by its title.
    histories : mapping of str to History
        By the title of its column.
    quantiles : tuple of float
        Which to put into the JSON file.
    overwrite : bool
        Replace files that are there.

    Returns
    -------
    dict of str to VariationReport
        As of `changes`.

    Raises
    ------
    UsageError, OutputExistsError, MissingExtraError
        If the path has another suffix, it or the JSON file is there, or matplotlib is missing; and
        as of `changes`.
    """
    inputs = [history.path for history in histories.values()]
    picture = check_picture(path, overwrite=overwrite, inputs=inputs)
    numbers = picture.with_suffix(".json")
    refuse_existing(numbers, overwrite=overwrite, kind="file", inputs=inputs)
    reports = changes(histories, quantiles=quantiles)
    document = {title: table(report) for title, report in reports.items()}
    figure = draw_changes(reports)
    save(figure, picture, overwrite=overwrite)
    write_text(numbers, json.dumps(document, indent=1, allow_nan=False) + "\n", new=not overwrite)
    return reports


def draw_changes(reports: Mapping[str, VariationReport]) -> Any:
    """The picture, as a Matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * len(reports), HEIGHT), layout="constrained")
    columns = figure.subfigures(1, len(reports), squeeze=False)[0]
    for column, (title, report) in zip(columns, reports.items(), strict=True):
        column.suptitle(f"{title}\n{report.model.weights:,} weights", fontsize=11, parse_math=False)
        for axes, (measure, name) in zip(column.subplots(2, 1), NAMES.items(), strict=True):
            draw_measure(axes, report, measure)
            axes.set_xlabel(name, fontsize=9)
            axes.locator_params(axis="x", nbins=6)
    return figure
