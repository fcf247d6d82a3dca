"""The document of all experiments: Markdown, a picture each, and the numbers it is made from.

::

    RESULTS/mnist1/*.json --> DOCS/reproduction/mnist1.json --> mnist1.png, ../reproduction.md
             (if given)         figures.json, of other pictures -----------^

The same numbers give the same text, byte for byte.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.curves import save_curves
from weightcast.experiments.merging import compact, expand, gather, run_set
from weightcast.experiments.overview import overall, quick_table, summary_table
from weightcast.experiments.sections import bullets, gaps, section
from weightcast.experiments.summary import Summary, summarise
from weightcast.experiments.weight_figures import LISTED, save_weight_figures
from weightcast.store import FormatError, InputNotFoundError, WeightcastError
from weightcast.store.extras import require_matplotlib
from weightcast.store.output import replacing

FOLDER = "reproduction"
_OTHERS = (LISTED, "changes.json")  # files of numbers that are none of an experiment

_HOW = """\
Arms start from the same initial weights and see the same batches; they differ in nothing but what
they are compared for. **plain** is the paper's training, **jumps** the same with jumps at the
paper's steps. What a careful reader would ask for stands beside them: **averaging** is a moving
average of plain's weights, evaluated beside it; **one-cycle** is a learning-rate schedule whose
peak was chosen among 1, 3, 10 and 30 times the paper's learning rate, on training images, at a
tenth of the length and without jumps; **one-cycle + jumps** is both. Plain and jumps have the
paper's settings and are not tuned. The tuning takes four tenths of a run, which no column has.

Accuracies and losses are running medians over four evaluations, so that a lucky one is not enough.
Numbers are medians over the seeds, with their range in parentheses; a level that a seed never
reached counts as later than any step. An arm that is exactly as good as plain reaches plain's best
accuracy in about every other seed only: best is the luckiest moment of the plain run. Processor
seconds include forecasts, and no evaluations; of plain they include the moving average, and with
seed 0 those of plain and jumps include recording. Seconds of forecasts are by the clock, on a
machine that did other work too.

One arm is called better or worse than another if its median gain over it, in runs of the same seed,
is larger than the range of the gains over the seeds, from the least to the most. It is a coarse
rule: with three seeds, chance alone gets there about once in ten times, with two once in three. A
claim of the paper is *reproduced* if our direction is the paper's, *not reproduced* if it is the
other one, or if plain reached a level that no seed of the arm did; it shows *no difference beyond
the range over seeds* otherwise. This is about the direction only: how much was gained stands beside
it. The rule was chosen after some of these results had been seen, as runs of a seed are pairs; a
stricter one, by which the ranges of two arms must not overlap, would find fewer differences, as the
ranges in the tables show. Many comparisons are made, and none is corrected for that.
"""
_QUICK = """\
These ran at a small part of their length, and claims, tables and curves are left out: this shows
that they run, and says nothing about accuracy.
"""


def write_document(results: str | Path | None, docs: str | Path) -> Path:
    """Write or renew the document of all experiments.

    Parameters
    ----------
    results : str, Path or None
        Folder of runs. Their numbers are merged to a file an experiment, ``reproduction/NAME.json``
        in `docs`, in place of one that is there; those of experiments without runs stay. Pictures
        of weights are drawn from its histories. None to use what is there.
    docs : str or Path
        Folder to write ``reproduction.md`` and ``reproduction/`` in. Pictures that
        ``reproduction/figures.json`` lists, as ``[{"file", "title", "caption"}]``, are shown too.

    Returns
    -------
    Path
        The document.

    Raises
    ------
    InputNotFoundError
        If there are no runs.
    FormatError
        If a file is damaged, or runs of an experiment were made in different ways.
    MissingExtraError
        If matplotlib is not installed; nothing is written then.
    """
    require_matplotlib()
    folder = Path(docs) / FOLDER
    merged = {} if results is None else gather(Path(results))
    texts = {name: compact(runs) for name, runs in merged.items()}
    if results is not None and not texts:
        raise InputNotFoundError(f"no results of runs in {results}")
    for name, text in texts.items():
        with replacing(folder / f"{name}.json") as temporary:
            temporary.write_text(text, encoding="utf-8")
    if results is not None:
        save_weight_figures(results, folder)
    text = document(docs)
    for summary in summaries(folder):
        if summary.set.entry.budget == "paper":
            save_curves(summary, folder / f"{summary.set.entry.folder}.png")
    target = Path(docs) / f"{FOLDER}.md"
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def document(docs: str | Path) -> str:
    """The document's text, from the merged numbers alone.

    Parameters
    ----------
    docs : str or Path
        As of `write_document`.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    InputNotFoundError
        If there are no numbers.
    FormatError
        If a file is damaged.
    """
    folder = Path(docs) / FOLDER
    every = summaries(folder)
    if not every:
        raise InputNotFoundError(f"no experiments in {folder}: give a folder of results")
    long = [s for s in every if s.set.entry.budget == "paper"]
    quick = [s for s in every if s.set.entry.budget == "quick"]
    parts = ["# The papers' experiments, run again", _MADE]
    if long:
        parts += ["## Summary", summary_table(long), bullets(overall(long))]
        parts += ["## How to read this", _HOW.strip(), "## Experiments"]
        parts += [section(summary) for summary in long]
    if quick:
        parts += ["## Quick runs", _QUICK.strip(), quick_table(quick)]
        parts += [bullets([f"{s.set.entry.name}: {gap}" for s in quick for gap in gaps(s)])]
    parts += pictures(folder)
    return "\n\n".join(part for part in parts if part) + "\n"


_MADE = (
    "Generated by `python -m weightcast.experiments.document [RESULTS] DOCS`; the numbers are in "
    f"`{FOLDER}/*.json`, as every evaluation gave them."
)


def summaries(folder: Path) -> list[Summary]:
    """Every merged experiment of a folder, in the catalogue's order."""
    known = list(CATALOGUE)
    paths = [path for path in sorted(folder.glob("[!.]*.json")) if path.name not in _OTHERS]
    found = [summarise(run_set(expand(path))) for path in paths]
    place = {name: i for i, name in enumerate(known)}
    return sorted(found, key=lambda s: (place.get(s.set.entry.name, len(known)), s.set.entry.name))


def pictures(folder: Path) -> list[str]:
    """The pictures that figures.json lists.

    Raises
    ------
    FormatError
        If it is damaged, or a name is no plain file name.
    """
    path = folder / LISTED
    if not path.exists():
        return []
    try:
        listed = [(f["file"], f["title"], f["caption"]) for f in json.loads(path.read_text())]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is not a list of file, title and caption: {error}") from error
    parts = ["## What weights do: figures from recorded histories"] if listed else []
    for file, title, caption in listed:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.png", str(file)):
            raise FormatError(f"{path}: {file!r} is not the name of a PNG file beside it")
        parts += [f"### {title}", f"![{title}]({FOLDER}/{file})", str(caption)]
    return parts


@click.command()
@click.argument("folders", nargs=-1, metavar="[RESULTS] DOCS", type=click.Path())
def main(folders: tuple[str, ...]) -> None:
    """Write DOCS/reproduction.md from the runs in RESULTS, or from what was merged before."""
    if len(folders) not in (1, 2):
        raise click.UsageError("give a folder to write in, and before it one of results, if any")
    try:
        path = write_document(folders[0] if len(folders) > 1 else None, folders[-1])
    except (WeightcastError, OSError) as error:
        click.echo(str(error), err=True)
        raise SystemExit(getattr(error, "exit_code", 1)) from error
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
