"""The paper's figures of weights, from the histories that a reproduction recorded.

::

    RESULTS/NAME/plain-seed0.zarr  --> trajectories.png (1 to 3), changes.png (4 to 9)
    RESULTS/NAME/jumps-seed0.zarr  --> one-weight.png (10)
"""

from __future__ import annotations

import json
from pathlib import Path

from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.changes import save_changes
from weightcast.experiments.one_weight import save_one_weight
from weightcast.experiments.results import file_name
from weightcast.experiments.trajectories import save_trajectories
from weightcast.store import History, WeightcastError
from weightcast.store.output import replacing

LISTED = "figures.json"
MOST = 4  # networks in a picture
_TRAJECTORIES = """\
Weights drawn from the top, the middle and the bottom third of the range of |w(end) - w(0)|, five \
each: their distance from the initial value. Of {names}, seed 0, plain training."""
_CHANGES = """\
How far weights moved, as the paper measures it: |w(end) - w(0)|, and the square root of the \
second moment of w(t) - w(0) over training. Counts are logarithmic: most weights barely move. \
Quantiles and counts are in `{folder}/changes.json`."""
_ONE = """\
Of {name}, seed 0: the weight that the first jump moved the furthest, the one that it moved by the \
median, and one at random, with jumps and without."""


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
    plain = dict(list(recorded(results, "plain").items())[:MOST])
    if not plain:
        return []
    listed = [
        ("trajectories.png", "Figures 1 to 3: trajectories", _TRAJECTORIES),
        ("changes.png", "Figures 4 to 9: how far weights move", _CHANGES),
    ]
    save_trajectories(folder / "trajectories.png", plain, overwrite=True)
    save_changes(folder / "changes.png", plain, overwrite=True)
    words = {"names": ", ".join(plain), "folder": folder.name, "name": ""}
    jumps = recorded(results, "jumps")
    if both := [name for name in plain if name in jumps]:
        words["name"] = name = both[0]
        points = next(arm.jumps for arm in CATALOGUE[name].arms if arm.name == "jumps")
        path = folder / "one-weight.png"
        save_one_weight(path, plain[name], jumps[name], points, title=name, overwrite=True)
        listed.append((path.name, "Figure 10: one weight, with and without jumps", _ONE))
    entries = [{"file": f, "title": t, "caption": c.format(**words)} for f, t, c in listed]
    with replacing(folder / LISTED) as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n")
    return [file for file, _, _ in listed]


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
