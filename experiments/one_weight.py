"""One weight with and without jumps: figure 10 of Sinha et al. 2017."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from weightcast.experiments.figure import COLOURS
from weightcast.experiments.saving import save
from weightcast.experiments.trajectories import finish, short
from weightcast.store import History, SamplingError, UsageError, variation
from weightcast.store.keyed import below, words
from weightcast.store.spread_figure import check_picture
from weightcast.store.trajectories import trajectories

Float = npt.NDArray[np.floating[Any]]
Int = npt.NDArray[np.int64]
Rule = Literal["largest", "median", "random"]


@dataclass(frozen=True)
class OneWeight:
    """A weight of a run, without and with jumps.

    Attributes
    ----------
    rule : {"largest", "median", "random"}
        Why it was picked, see `one_weight`.
    name : str
        Such as ``fc.weight[3,7]``.
    parameter : int
        Along the histories' parameter axis.
    step : int
        Recorded step at which the first jump shows.
    moved : float
        How far the two runs are apart there.
    plain : float array, shape (T,)
        Its values at every step of the plain history.
    jumps : float array, shape (T',)
        Its values at every step of the history with jumps.
    """

    rule: Rule
    name: str
    parameter: int
    step: int
    moved: float
    plain: Float
    jumps: Float


def one_weight(
    plain: History, jumps: History, jump_points: Sequence[int], *, seed: int = 0
) -> tuple[OneWeight, ...]:
    """Pick three weights by how far the first jump moved them, and follow them in both runs.

    How far a weight moved is how far the two runs are apart at the first step, from the first jump
    point on, that both recorded and at which they differ: at the jump point itself where what was
    recorded of it is the weights after the jump. Of the weights that moved are picked the one that
    moved the furthest, the one that moved by the median (the lower of two), and one at random. Of
    weights that moved equally far it is the first.

    Parameters
    ----------
    plain, jumps : History
        Of two runs with the same initial weights.
    jump_points : sequence of int
    seed : int
        Of the random pick.

    Returns
    -------
    tuple of OneWeight
        In the order "largest", "median", "random".

    Raises
    ------
    ShapeError
        If the histories are of different models.
    UsageError
        If there is no jump point, or the runs differ before the first.
    SamplingError
        If no weight differs where the first jump should show.

    Notes
    -----
    Figure 10 of Sinha et al. 2017. In memory are one snapshot of each history at a time, and
    of the histories the chunks that hold the three weights, one after the other.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table, runs = ParameterTable.of([("w", (2,), "float32", "weight")]), []
    >>> for last in ([3, 3], [4, 9]):
    ...     path = tempfile.mkdtemp() + "/run.zarr"
    ...     with HistoryWriter.create(path, table) as writer:
    ...         writer.append([0, 10], [0.0, 0.5], np.float32([[1, 1], last]))
    ...     runs.append(History(path))
    >>> largest, median, _ = one_weight(*runs, [10])
    >>> largest.name, largest.moved, largest.jumps, median.name
    ('w[1]', 6.0, array([1., 9.], dtype=float32), 'w[0]')
    """
    if not jump_points or min(jump_points) < 0:
        raise UsageError(
            f"jump points must be one step or more, none negative: got {list(jump_points)}"
        )
    plain.parameters.require_same(jumps.parameters, str(plain.path), str(jumps.path))
    step, moved = _moved(plain, jumps, min(jump_points))
    picked = _picked(moved, seed)
    places = np.array(list(picked.values()), np.int64)
    of_plain, of_jumps = (trajectories(h, places, np.arange(len(h))) for h in (plain, jumps))
    return tuple(
        OneWeight(
            *(rule, plain.parameters.locate(place), place, step, float(moved[place])),
            *(of_plain[i], of_jumps[i]),
        )
        for i, (rule, place) in enumerate(picked.items())
    )


def _moved(plain: History, jumps: History, first: int) -> tuple[int, Float]:
    """The step at which the first jump shows, and how far apart the runs are there; 0 for NaN."""
    both = np.intersect1d(plain.steps, jumps.steps)
    before, after = both[both < first], both[both >= first]
    if len(before) and _apart(plain, jumps, int(before[0])).any():
        raise UsageError(
            f"the runs must have the same initial weights: {plain.path} and {jumps.path} differ at "
            f"step {before[0]}, before the first jump at {first}"
        )
    for step in after[:2].tolist():  # the second, where the first was recorded before its jump
        moved = _apart(plain, jumps, step)
        if moved.any():
            return step, moved
    looked = f"at {' and '.join(map(str, after[:2]))}" if len(after) else "as both hold no step"
    raise SamplingError(
        f"no weight of {jumps.path} was moved by the jump at {first}, compared with {plain.path} "
        f"{looked} from there on: give the jump points that the run took"
    )


def _apart(plain: History, jumps: History, step: int) -> Float:
    with np.errstate(invalid="ignore"):  # of two infinities
        apart = variation(jumps.snapshot(step), plain.snapshot(step))
    apart[~np.isfinite(apart)] = 0
    return apart


def _picked(moved: Float, seed: int) -> dict[Rule, int]:
    """Weights by rule; one at least has moved."""
    places = np.flatnonzero(moved)
    far = moved[places]
    middle = np.partition(far, (len(far) - 1) // 2)[(len(far) - 1) // 2]
    return {
        "largest": int(places[np.argmax(far)]),
        "median": int(places[np.argmax(far == middle)]),
        "random": int(places[below(words(seed, 0, 0, 1)[0, :1], len(far))[0]]),
    }


def save_one_weight(
    path: str | Path,
    plain: History,
    jumps: History,
    jump_points: Sequence[int],
    *,
    title: str = "",
    seed: int = 0,
    overwrite: bool = False,
) -> tuple[OneWeight, ...]:
    """Draw three weights of a run without and with jumps, the jump points marked.

    Parameters
    ----------
    path : str or Path
        Picture to write: .png, .svg or .pdf.
    plain, jumps, jump_points, seed
        As of `one_weight`.
    title : str
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    tuple of OneWeight
        What was drawn.

    Raises
    ------
    UsageError, OutputExistsError, MissingExtraError
        If the path has another suffix or is taken, or matplotlib is missing; and as of
        `one_weight`.
    """
    check_picture(path, overwrite=overwrite, inputs=[plain.path, jumps.path])
    picked = one_weight(plain, jumps, jump_points, seed=seed)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.9), layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    for axes, weight in zip(figure.subplots(1, len(picked)), picked, strict=True):
        axes.set_title(_why(weight), fontsize=10, parse_math=False)
        lines = {
            "plain": (plain.steps, weight.plain),
            "jumps": _broken(jumps.steps, weight.jumps, jump_points, weight.step),
        }
        for arm, (steps, values) in lines.items():
            axes.plot(steps, values, color=COLOURS[arm], linewidth=1.2, label=arm)
        for i, point in enumerate(jump_points):
            label = "jump points" if i == 0 else None
            axes.axvline(point, color=COLOURS["jumps"], linestyle=":", linewidth=1, label=label)
        axes.set(ylabel="weight")
        finish(axes)
    save(figure, path, overwrite=overwrite)
    return picked


def _broken(steps: Int, values: Float, points: Sequence[int], shows: int) -> tuple[Float, Float]:
    """A line with a gap where each jump is: what leads there is not a step of the weight's."""
    after = np.searchsorted(steps, np.array(points), "right")
    if shows == steps[np.searchsorted(steps, min(points))]:  # recorded after the jump
        after = np.searchsorted(steps, np.array(points))
    return np.insert(steps.astype(float), after, np.nan), np.insert(values, after, np.nan)


def _why(weight: OneWeight) -> str:
    kind = {"largest": "moved the furthest", "median": "moved by the median", "random": "at random"}
    moved = f"{weight.moved:.2g} at step {weight.step:,}"
    return f"{short(weight.name).strip()}\n{kind[weight.rule]}: {moved}"
