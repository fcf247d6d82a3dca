"""N0's history on MNIST: trained and recorded, or taken up where it is complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weightcast.experiments.digits import Task
from weightcast.experiments.mnist import digests, load_images
from weightcast.experiments.networks import n0
from weightcast.experiments.training import train
from weightcast.predictor import one_thread
from weightcast.recorder import Recorder
from weightcast.store import History, WeightcastError

LEARNING_RATE = 1e-4  # section 4.1: Adam
TESTED = 2000  # test images that the network's accuracy is measured on


@dataclass(frozen=True)
class Mnist:
    """Images and labels, and SHA-256 of the files that they are from."""

    task: Task
    sha256: dict[str, str]

    @classmethod
    def of(cls, folder: str | Path) -> Mnist:
        """Read MNIST's four IDX files; errors as of `load_images`."""
        source = {**digests(folder, "train"), **digests(folder, "t10k")}
        tested = [part[:TESTED] for part in load_images(folder, "t10k")]
        return cls(Task(*load_images(folder, "train"), *tested), source)


def recorded(
    folder: Path,
    data: Mnist,
    *,
    seed: int,
    steps: int,
    every: int,
    progress: Callable[[str, int, int], None],
) -> History:
    """N0's history for a seed.

    Parameters
    ----------
    folder : Path
        Where it is, or will be; one that was not made so, or not to its end, is replaced.
    data : Mnist
    seed : int
        Of the initial weights, the batches and dropout.
    steps : int
        Training steps.
    every : int
        Steps between snapshots.
    progress : callable
        Called with (what, done, total).

    Notes
    -----
    Torch has one thread, so that the number of cores does not change the weights.
    """
    path = folder / f"n0-seed{seed}-{steps}.zarr"
    made = {"sha256": data.sha256, "seed": seed, "steps": steps, "every": every}
    if _complete(path, made):
        return History(path)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 50 == 0 or done == steps:
            progress(f"train N0, seed {seed}", done, steps)

    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = n0()
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        options: Any = {"metadata": {"n0": made}, "overwrite": True}
        with Recorder(network, path, f"every:{every}", **options).attach(optimizer) as recorder:
            curve = train(
                *(network, optimizer, data.task),
                steps=steps,
                seed=seed,
                evaluate_every=steps,
                after_step=[tick],
            )
            recorder.log(accuracy=curve.accuracy[-1])
    return History(path)


def _complete(path: Path, made: dict[str, Any]) -> bool:
    """Whether a history is there that was made so, to its end: what is logged last is there."""
    try:
        history = History(path)
    except WeightcastError:
        return False
    return history.header.metadata.get("n0") == made and "accuracy" in history.metrics
