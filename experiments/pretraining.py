"""From raw data to a forecaster in a file, by the paper's recipe, in one command.

::

    python -m weightcast.experiments.pretraining --data DIR -o introspection-mnist.safetensors

    MNIST --train N0--> n0-seed0-10000.zarr --sample--> dataset.zarr --fit--> introspection
          --train N0--> n0-seed1-10000.zarr --measure------------------------------+--> card
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from weightcast.experiments.provenance import about, command_line
from weightcast.experiments.recording import Mnist, recorded
from weightcast.predictor import (
    Errors,
    Introspection,
    evaluate_dataset,
    evaluate_history,
    save,
)
from weightcast.store import UsageError, WeightcastError, build_dataset
from weightcast.store.output import refuse_existing

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """What to train, record and fit; the defaults are the paper's where it gives them.

    Attributes
    ----------
    seed : int
        Of N0's run, of the samples and of the fit; the second run has the next one.
    steps : int
        Training steps of N0: ten thousand take two cores, one of which records, 2 to 5 minutes.
    every : int
        Steps between snapshots: half of it is the tolerance's 1 % of t from ``50 * every`` on.
    samples : int
        To learn from and to hold out.
    held_out : float
        Share of the weights that are held out.
    fit_steps : int
        Training steps of the forecaster.
    points : int
        Steps t of the second run that it is measured at.
    """

    seed: int = 0
    steps: int = 10_000
    every: int = 10
    samples: int = 800_000
    held_out: float = 0.1
    fit_steps: int = 30_000
    points: int = 10


def pretrain(
    data: str | Path,
    output: str | Path,
    plan: Plan,
    *,
    work: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = lambda what, done, total: None,
) -> list[Errors]:
    """Train the network, record it, fit the forecaster, measure it, and write its file.

    Parameters
    ----------
    data : str or Path
        Folder of MNIST's four IDX files.
    output : str or Path
        File of the forecaster.
    plan : Plan
    work : str or Path, optional
        Folder that keeps the histories and the dataset. Histories of the same plan and data that
        are complete there are not recorded again. By default a temporary one.
    overwrite : bool
        Replace a file that stands at `output`.
    command : str
        For the card.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    list of Errors
        On the held-out weights, then on the second run; the card has more of them.

    Raises
    ------
    OutputExistsError
        If `output` is taken.
    UsageError
        If its name has another suffix than .safetensors.
    InputNotFoundError, FormatError
        If the data is missing or damaged.
    """
    if Path(output).suffix != ".safetensors":  # now, and not after minutes of training
        raise UsageError(f"a forecaster's file is named *.safetensors: got {output}")
    refuse_existing(output, overwrite=overwrite, kind="file")
    mnist = Mnist.of(data)
    with ExitStack() as stack:
        folder = Path(work or stack.enter_context(TemporaryDirectory(prefix="weightcast-")))
        folder.mkdir(parents=True, exist_ok=True)
        runs = [
            recorded(
                *(folder, mnist), seed=seed, steps=plan.steps, every=plan.every, progress=progress
            )
            for seed in (plan.seed, plan.seed + 1)
        ]
        dataset = build_dataset(
            runs[0],
            folder / "dataset.zarr",
            plan.samples,
            seed=plan.seed,
            validation=plan.held_out,
            overwrite=True,
            progress=progress,
        )
        forecaster = Introspection(steps=plan.fit_steps, random_state=plan.seed)
        forecaster.fit(
            dataset.X,
            dataset.y,
            rows=dataset.training_rows,
            validation_rows=dataset.validation_rows,
            progress=progress,
        )
        held_out = evaluate_dataset(forecaster, dataset, dataset.validation_rows)
        other = evaluate_history(forecaster, runs[1], points=plan.points, progress=progress)
        card = about(plan, dataset, forecaster, held_out, other, runs) | {"command": command}
        card["data"] = {"images": len(mnist.task.train_x), "sha256": mnist.sha256}
    save(forecaster, output, card=card, overwrite=overwrite)
    return [held_out[-1], other[-1]]


def _show(what: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    click.echo(f"\r{what}: {done}/{total}{end}", nl=False, err=True)


def _count(name: str, default: int, text: str) -> Callable[[Any], Any]:
    at_least_1 = click.IntRange(min=1)
    return click.option(name, default=default, show_default=True, type=at_least_1, help=text)


@click.command()
@click.option("--data", required=True, type=click.Path(), help="Folder of MNIST's IDX files.")
@click.option("-o", "--output", required=True, type=click.Path(), help="File to write.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--work", type=click.Path(), help="Keeps histories and dataset, to go on from.")
@click.option("--seed", default=Plan.seed, show_default=True, type=click.IntRange(min=0))
@_count("--steps", Plan.steps, "Training steps of N0.")
@_count("--every", Plan.every, "Steps between snapshots.")
@_count("--samples", Plan.samples, "Samples to draw.")
@_count("--fit-steps", Plan.fit_steps, "Training steps of the forecaster.")
@_count("--points", Plan.points, "Steps t of the second run to measure it at.")
def main(data: str, output: str, overwrite: bool, work: str | None, **options: Any) -> None:
    """Train N0 on MNIST, record it, fit Introspection to its history, measure, and save."""
    try:
        errors = pretrain(
            *(data, output, Plan(**options)),
            work=work,
            overwrite=overwrite,
            command=command_line(output, work, Plan(**options)),
            progress=_show,
        )
    except (WeightcastError, OSError) as error:
        click.echo(str(error), err=True)
        raise SystemExit(getattr(error, "exit_code", 1)) from error
    click.echo(json.dumps([e.to_json() for e in errors], indent=1))
    click.echo(f"saved {output}")


if __name__ == "__main__":
    main()
