"""An experiment of 40 steps on 60 images; and as a script, its reproduction, killed in the middle.

``python tiny_experiments.py ARGUMENTS`` reproduces until a worker is half through the arm "jumps",
past a checkpoint, and kills the command. Workers import this script too, for they are spawned.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from weightcast.experiments import jobs, running
from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.experiment import Arm, Experiment, Updates
from weightcast.experiments.running import run_arm

TINY = Experiment(
    name="tiny",
    title="Forty steps",
    paper="none",
    data="mnist",
    network="mnist3",
    updates=Updates("SGD", 0.05),
    batch=10,
    steps=40,
    evaluate_every=10,
    arms=(
        Arm("plain"),
        Arm("bad", (10,), "no-such-forecaster"),
        Arm("jumps", (14, 25), "linear-fit@1.5"),
        Arm("one-cycle", schedule="one-cycle"),
    ),
)


def write_images(folder: Path, seed: int = 0) -> Path:
    """IDX files of 60 training and 60 test images."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for part in ("train", "t10k"):
        labels = rng.permutation(60).astype(np.uint8) % 10
        images = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
        images[np.arange(60), labels] = 255  # a row that tells the digit
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (60, 28, 28))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = bytes([0, 0, 8, 1]) + (60).to_bytes(4, "big")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return folder


def run_until_killed(experiment: Experiment, arm: Arm, seed: int, **options: Any) -> object:
    """Run an arm; the command is killed in the middle of "jumps"."""

    def progress(done: int, total: int) -> None:
        if arm.name == "jumps" and done >= total // 2:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)

    return run_arm(experiment, arm, seed, **{**options, "progress": progress})


if __name__ in ("__main__", "__mp_main__"):
    CATALOGUE["tiny"] = TINY
    jobs.run_arm = run_until_killed  # type: ignore[assignment]
    running._CHECKPOINT = 0.0  # a checkpoint whenever there may be one

if __name__ == "__main__":
    from weightcast.cli.main import main

    sys.exit(main(sys.argv[1:]))
