"""The paper's figures of weights, from the histories that a reproduction recorded.

::

    RESULTS/NAME/plain-seed0.zarr  --> trajectories.png (1 to 3), changes.png (4 to 9)
    RESULTS/NAME/jumps-seed0.zarr  --> one-weight.png (10)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.changes import save_changes
from weightcast.experiments.one_weight import save_one_weight
from weightcast.experiments.results import file_name
from weightcast.experiments.trajectories import save_trajectories
from weightcast.experiments.wording import listed
from weightcast.store import History, VariationReport, WeightcastError
from weightcast.store.output import write_text
from weightcast.store.sorted_runs import BINS

LISTED = "figures.json"
MOST = 4  # networks in a picture
_TRAJECTORIES = """\
Weights drawn from the top, the middle and the bottom third of the range of |w(end) - w(0)|, five \
each: their difference to the initial value. Of {names}, seed 0, plain training. The thirds are of \
the range: the bottom one holds {low} of the weights of each network, or more. Each panel has a \
vertical axis of its own."""
_CHANGES = """\
How far weights moved, as the paper measures it: |w(end) - w(0)|, and the square root of the \
second moment of w(t) - w(0) over training. Counts are logarithmic. From beginning to end, \
{barely} of the weights moved by at most 1 % of what the furthest did. Quantiles and counts are in \
`{folder}/changes.json`."""
_ONE = """\
Of {name}, seed 0: the weight that the first jump moved the furthest, the one that it moved by the \
median, and one at random, with jumps and without. Lines join recorded steps, but not across a \
jump."""


def save_weight_figures(results: str | Path, folder: str | Path) -> list[str]:
    """Draw what the histories of a results folder show, and list it for the document.

    Parameters
    ----------
    results : str or Path
        Folder of runs. Without histories of whole runs nothing is drawn.
    folder : str or Path
        Where pictures are written, or renewed, and ``figures.json``, which lists them.

    Returns
    -------
    list of str
        Names of the pictures.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    results, folder = Path(results), Path(folder)
    plain = _networks(recorded(results, "plain"))
    if not plain:
        return []
    shown = [
        ("trajectories.png", "Figures 1 to 3: trajectories", _TRAJECTORIES),
        ("changes.png", "Figures 4 to 9: how far weights move", _CHANGES),
    ]
    save_trajectories(folder / "trajectories.png", plain, overwrite=True)
    reports = save_changes(folder / "changes.png", plain, overwrite=True)
    words = {"names": ", ".join(plain), "folder": folder.name, "name": "", **_shares(reports)}
    jumps = recorded(results, "jumps")
    if both := [name for name in plain if name in jumps]:
        words["name"] = name = both[0]
        points = next(arm.jumps for arm in CATALOGUE[name].arms if arm.name == "jumps")
        path = folder / "one-weight.png"
        save_one_weight(path, plain[name], jumps[name], points, title=name, overwrite=True)
        shown.append((path.name, "Figure 10: one weight, with and without jumps", _ONE))
    entries = [{"file": f, "title": t, "caption": c.format(**words)} for f, t, c in shown]
    write_text(folder / LISTED, json.dumps(entries, indent=1) + "\n")
    return [file for file, _, _ in shown]


def _networks(histories: dict[str, History]) -> dict[str, History]:
    """The first history of each network, of a few networks."""
    first = {CATALOGUE[name].network: name for name in reversed(histories)}
    return {name: histories[name] for name in [n for n in histories if n in first.values()][:MOST]}


def _shares(reports: Mapping[str, VariationReport]) -> dict[str, str]:
    """In words: how many weights barely moved, and the least share in the low third of a range."""
    spreads = {name: s for name, r in reports.items() if (s := r.model.change) is not None}
    few = [f"{100 * spread.still:.0f} % in {name}" for name, spread in spreads.items()]
    low = min(sum(s.histogram[: BINS // 3]) / sum(s.histogram) for s in spreads.values())
    return {"barely": listed(few), "low": f"{math.floor(1000 * low) / 10:g} %"}


def recorded(results: Path, arm: str) -> dict[str, History]:
    """Whole histories of an arm's first run, by experiment; the largest networks come first."""
    found = {}
    for name, entry in CATALOGUE.items():
        try:
            history = History(results / name / file_name(arm, 0, ".zarr"))
        except WeightcastError:
            continue
        if len(history) and (history.steps[0], history.steps[-1]) == (0, entry.steps):
            found[name] = history
    return dict(sorted(found.items(), key=lambda item: -item[1].parameters.size))
