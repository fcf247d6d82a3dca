"""The peak of a one-cycle schedule: tuned, so that jumps stand beside a fair rival.

Of the peaks, the first four are tried in any case, and then the next as long as the largest that
was tried is the best: it lies among those tried, unless it is the last of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightcast.experiments.experiment import Arm, Experiment
from weightcast.experiments.results import Trace, file_name, read_result
from weightcast.experiments.running import run_arm
from weightcast.store import UsageError

if TYPE_CHECKING:
    from weightcast.experiments.loading import Data

Progress = Callable[[int, int], None]
Quality = tuple[float, float]  # accuracy and -loss at the end; of a run that diverged, the least

PEAKS = (1, 3, 10, 30, 100, 300, 1000)  # in learning rates of the paper
ALWAYS = 4  # of them are tried in any case
TUNING = 10  # peaks are tried at so many times fewer steps
TUNING_SEED = 101


def tuned_peak(
    experiment: Experiment,
    *,
    data: Data,
    folder: str | Path,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
) -> float:
    """The peak of a one-cycle schedule that trains best at a tenth of the length.

    Parameters
    ----------
    experiment : Experiment
    data : Data
        A fifth of its training images judges; those that judge the arms are not looked at.
    folder : str or Path
        As of `run_arm`; what was tried is kept there.
    device : str
    progress : callable, optional
        Called with (done, total), in steps.

    Returns
    -------
    float
        Learning rate, of `PEAKS` times the paper's: the one with the highest accuracy at the end,
        as arms are judged by it, and of equals the one with the lowest loss.

    Raises
    ------
    UsageError
        If training diverges with each.
    """
    short, part = shortened(experiment), data.for_tuning()
    found: dict[float, Quality] = {}
    for peak in _while_larger_are_better(experiment, found):

        def told(done: int, total: int) -> None:
            progress(len(found) * total + done, max(len(found) + 1, ALWAYS) * total)

        arm = arm_of(peak)
        options: Any = {"data": part, "folder": folder, "peak": peak, "device": device}
        result = run_arm(short, arm, TUNING_SEED, **options, progress=told)
        found[peak] = quality(result.traces[arm.name])
    best = max(found, key=found.__getitem__)
    if math.isinf(found[best][1]):
        raise UsageError(
            f"{experiment.name} diverges with every peak tried, "
            f"{', '.join(f'{p:g}' for p in found)}: give its optimizer a lower learning rate"
        )
    return best


def tried(experiment: Experiment, folder: Path) -> tuple[int, int]:
    """How many peaks were tried in a folder of results, and how many there are to try so far."""
    short, found = shortened(experiment), dict[float, Quality]()
    for peak in _while_larger_are_better(experiment, found):
        arm = arm_of(peak)
        path = folder / short.folder / file_name(arm.name, TUNING_SEED)
        if not path.exists():
            return len(found), max(len(found) + 1, ALWAYS)
        found[peak] = quality(read_result(path).traces[arm.name])
    return len(found), len(found)


def shortened(experiment: Experiment) -> Experiment:
    """What peaks are tried on."""
    short = experiment.shortened(max(experiment.steps // TUNING, 1))
    return replace(short, budget=f"{experiment.budget}-tuning", averaged=False)


def arm_of(peak: float) -> Arm:
    """The run that tries a peak."""
    return Arm(f"peak {peak:g}", schedule="one-cycle")


def quality(trace: Trace) -> Quality:
    """How good a peak is: of two, the larger is the better one.

    Examples
    --------
    >>> collapsed, fine = Trace([9], [1.9], [0.31]), Trace([9], [8.8], [0.93])
    >>> quality(fine) > quality(collapsed) > quality(Trace([9], [math.nan], [0.5]))
    True
    """
    loss = trace.loss[-1]
    return (trace.accuracy[-1], -loss) if math.isfinite(loss) else (-1.0, -math.inf)


def _while_larger_are_better(
    experiment: Experiment, found: Mapping[float, Quality]
) -> Iterator[float]:
    """The peaks to try, one by one, as what was found of those before is put into `found`."""
    for place, factor in enumerate(PEAKS):
        if place >= ALWAYS and max(found, key=found.__getitem__) != max(found):
            return
        yield factor * experiment.updates.lr
