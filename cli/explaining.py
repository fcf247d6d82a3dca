"""Datasets, and plans to build one, in words and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import echo, megabytes, print_facts, print_table

if TYPE_CHECKING:
    from weightcast.store import DatasetInfo, PlanInfo
    from weightcast.store.describing import RunInfo, StratumInfo

Facts = dict[str, Any]

MOST_VALUES = 8  # of a context that are all printed
FACTS = {"step": "t", "ahead": "steps to the target", "ratio": "target / t"}


def show_json(info: DatasetInfo | PlanInfo) -> None:
    """Print facts as JSON."""
    import dataclasses
    import json

    click.echo(json.dumps(dataclasses.asdict(info), indent=2))


def show_built(info: DatasetInfo) -> None:
    """Print what a dataset that was just built holds."""
    _print_strata(info.runs, info.recipe)
    first, last = min(run.t[0] for run in info.runs), max(run.t[1] for run in info.runs)
    echo(
        f"{info.samples:,} samples of {len(info.recipe['context'])} inputs and one later value, "
        f"t from {first} to {last}, in {info.path}"
    )
    click.echo(_held_out(info))


def show_dataset(info: DatasetInfo) -> None:
    """Explain a dataset."""
    import shlex

    _print_runs(info.runs, "rows used", "weights in it")
    _print_strata(info.runs, info.recipe)
    lines = {
        "samples": f"{info.samples:,} in {info.path}: {megabytes(info.size)} of {info.dtype}, "
        f"dataset format {info.format}",
        **_recipe(info.recipe),
        "held out": _held_out(info),
    }
    print_facts(lines.items())
    echo(f"\nBuilt by:\n  {shlex.join(info.command)}")
    if info.format > 1:
        again = ("weightcast", "dataset", "rebuild", info.path, "-o", "OUT")
        echo(f"Again, and compared with this one:\n  {shlex.join(again)}")


def show_plan(info: PlanInfo) -> None:
    """Print what building a dataset will take."""
    _print_runs(info.runs, "rows to use", "weights to draw from")
    _print_strata(info.runs, info.recipe)
    about = "about " if info.read_estimated else ""
    read = "unknown (its store does not list files)"
    if info.read is not None:
        read = about + megabytes(info.read)
    lines = {
        **_recipe(info.recipe),
        "dataset": f"{info.samples:,} samples, {megabytes(info.size)}",
        "tasks": f"{info.tasks:,}: each is a range of whole chunks",
        "to read": f"{read}, {megabytes(info.decoded)} decoded",
        "scratch": f"{megabytes(info.scratch)} of files beside the dataset until it is done",
        "memory": f"{megabytes(info.worker)} a worker at most, beside Python itself",
        "passes": "decode (reads the histories), cut strata and choose (read scratch files, a few "
        "times each), write samples",
    }
    print_facts(lines.items())


def _print_runs(runs: Sequence[RunInfo], rows: str, weights: str) -> None:
    names = ("run", rows, weights, "draws of t each", "t", "steps t")
    cells = [
        (
            f"{i}: {run.path}",
            f"{run.recorded:,}" if run.recorded else "?",
            f"{run.weights:,}",
            f"{run.draws:,}" if run.draws else "?",
            f"{run.t[0]} to {run.t[1]}",
            f"{run.steps:,}",
        )
        for i, run in enumerate(runs)
    ]
    print_table(names, cells)


def _print_strata(runs: Sequence[RunInfo], recipe: Facts) -> None:
    """One line a stratum and run; a column only where it says something."""
    strata = [(i, k, s) for i, run in enumerate(runs) for k, s in enumerate(run.strata)]
    fewer = any(s.samples < s.wanted for _, _, s in strata)
    moved = any(s.variation for _, _, s in strata)
    tied = any(s.ties > 1 for _, _, s in strata)

    def row(run: int, stratum: int, s: StratumInfo) -> Iterator[str]:
        if len(runs) > 1:
            yield f"{run}"
        low, high = recipe["edges"][stratum : stratum + 2]
        yield f"{stratum}: {100 * low:g} to {100 * high:g} %"
        yield f"{s.samples:,}"
        if fewer:
            yield f"{s.wanted:,}"
        yield f"{s.candidates:,}" if s.candidates or not s.samples else "?"
        if moved:
            yield f"{s.variation[0]:.3g} to {s.variation[1]:.3g}" if s.variation else "-"
        if tied:
            yield _ties(s)

    columns = ["run"] if len(runs) > 1 else []
    columns += ["stratum", "samples", *(["wanted"] if fewer else []), "candidates"]
    columns += [*(["variation"] if moved else []), *(["at its lower cut"] if tied else [])]
    print_table(columns, [tuple(row(*which)) for which in strata])


def _ties(stratum: StratumInfo) -> str:
    if stratum.ties < 2:
        return ""
    if stratum.tied_at is None:
        return f"{stratum.ties:,} tie"
    return f"{stratum.ties:,} tie at {stratum.tied_at:.3g}: chosen at random by key"


def _recipe(recipe: Facts) -> dict[str, str]:
    """The recipe, in words."""
    bounds = [f"{name.replace('_', '-')} {recipe[name]}" for name in ("t_min", "t_max")]
    bounds = [bound for bound in bounds if not bound.endswith("None")]
    spread = {"uniform": "all steps alike", "log": "32 steps of each octave alike"}
    which = [f"{verb} {' '.join(recipe[verb])}" for verb in ("include", "exclude") if recipe[verb]]
    shares = ", ".join(f"{100 * share:g} %" for share in recipe["shares"])
    lines = {
        "inputs": context_in_words(recipe["context"]),
        "target": horizon_in_words(recipe["horizon"]),
        "t": ", ".join([spread[recipe["t_distribution"]], *bounds])
        + f"; a step that was not recorded stands in within {recipe['tolerance']:g} t",
        "strata": "candidates sorted by |w(t) - w(0)|, the most changed first; "
        f"{shares} of the samples",
        "parameters": ", ".join(which) or "all",
        "seed": f"{recipe['seed']}",
    }
    if recipe["run_shares"]:
        lines["runs"] = "samples as " + " : ".join(f"{share:g}" for share in recipe["run_shares"])
    return lines


def context_in_words(entries: Sequence[Any]) -> str:
    """What a forecaster sees, in words: past values first.

    Examples
    --------
    >>> context_in_words((1.0, 0.7, 0.0, "mean:800/25", "slope:800/25", "scale", "ahead"))
    "w(t), w(0.7t), w(0); mean, slope of the 33 snapshots from t-800 to t; the tensor's scale; \
steps to the target"
    >>> context_in_words(("last:33/25",))
    'w(t), w(t-25), ..., w(t-800) (33 values)'
    """
    from weightcast.store.columns import Fact, Past, Statistic
    from weightcast.store.context import Context

    columns = Context.of(tuple(entries)).columns
    past = [_weight_at(c.fraction, c.back) for c in columns if isinstance(c, Past)]
    if len(past) > MOST_VALUES:
        past = [*past[:2], "...", f"{past[-1]} ({len(past)} values)"]
    parts = [", ".join(past)]
    of_windows: dict[Any, list[str]] = {}
    for column in columns:
        if isinstance(column, Statistic):
            of_windows.setdefault(column.window, []).append(column.kind)
    for window, kinds in of_windows.items():
        snapshots = f"{window.count} snapshots from t-{window.steps} to t"
        parts.append(f"{', '.join(kinds)} of the {snapshots}")
    parts += [FACTS.get(c.name, f"the tensor's {c.name}") for c in columns if isinstance(c, Fact)]
    return "; ".join(filter(None, parts))


def horizon_in_words(horizon: Any) -> str:
    """What is forecast, in words.

    Examples
    --------
    >>> horizon_in_words(2.0), horizon_in_words((1.5, "+500"))
    ('w(2t)', 'w(1.5t) or w(t+500)')
    """
    from weightcast.store.horizon import horizons

    return " or ".join(f"w({h})" for h in horizons(horizon))


def _weight_at(fraction: float, back: int) -> str:
    known = {0.0: "w(0)", 1.0: "w(t)"}
    return f"w(t-{back})" if back else known.get(fraction, f"w({fraction:g}t)")


def _held_out(info: DatasetInfo) -> str:
    if not info.recipe["validation"]:
        return f"{info.training:,} rows for training; none held out for validation"
    side = "no weight is on both sides"
    if info.recipe["validation_by"] == "run":
        held = [f"{i}" for i, run in enumerate(info.runs) if run.validation]
        side = f"those of run {', '.join(held)}"
    return (
        f"{info.training:,} rows for training, {info.validation:,} held out for validation: {side}"
    )
