"""The document of all experiments: Markdown, a picture each, and the numbers it is made from.

::

    RESULTS/mnist1/*.json --> DOCS/reproduction/mnist1.json --> mnist1.png, ../reproduction.md
             (if given)         figures.json, of other pictures -----------^

The same numbers give the same text, byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import click

from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.conclusions import in_short
from weightcast.experiments.curves import save_curves
from weightcast.experiments.merging import compact, expand, gather, run_set
from weightcast.experiments.overview import figures_table, quick_table, summary_table
from weightcast.experiments.preface import ABOUT, HOW, QUICK
from weightcast.experiments.sections import bullets, gaps, section
from weightcast.experiments.summary import Summary, summarise
from weightcast.experiments.weight_figures import LISTED, save_weight_figures
from weightcast.store import FormatError, InputNotFoundError, WeightcastError
from weightcast.store.extras import require_matplotlib
from weightcast.store.output import replacing

FOLDER = "reproduction"
_OTHERS = (LISTED, "changes.json")  # files of numbers that are none of an experiment


def write_document(
    results: str | Path | None,
    docs: str | Path,
    *,
    told: Callable[[str], object] | None = None,
) -> Path:
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
    told : callable, optional
        Called with a line for each experiment that is left out, as it has a damaged file. By
        default that is an error.

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
    merged = {} if results is None else gather(Path(results), told=told)
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
    ran = {s.set.entry.name for s in long}
    quick = [s for s in every if s.set.entry.budget == "quick" and s.set.entry.name not in ran]
    parts = ["# The papers' experiments, run again", _MADE]
    if long:
        parts += [ABOUT.strip(), "## In short", bullets(in_short(long, quick))]
        parts += ["## Summary", summary_table(long)]
        parts += ["## How to read this", HOW.strip(), "## Experiments"]
        parts += [section(summary) for summary in long]
    if quick:
        parts += ["## Quick runs", QUICK.strip(), quick_table(quick)]
        parts += [bullets([f"{s.set.entry.name}: {gap}" for s in quick for gap in gaps(s)])]
    drawn = pictures(folder)
    titles = [part.removeprefix("### ") for part in drawn if part.startswith("### ")]
    figures = figures_table(long, quick, titles)
    parts += [*drawn, *(["## The paper's figures", figures] if figures else [])]
    return "\n\n".join(part for part in parts if part) + "\n"


_MADE = (
    "Generated by `python -m weightcast.experiments.document [RESULTS] DOCS`; the numbers are in "
    f"`{FOLDER}/*.json`, of every evaluation, rounded to five digits."
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
    """Write DOCS/reproduction.md, its tables, curves and figures of weights.

    Of RESULTS DOCS, RESULTS is a folder that 'weightcast reproduce' filled: its runs are merged to
    a file an experiment, DOCS/reproduction/NAME.json; those of other experiments stay. Figures of
    weights are drawn from the histories that whole runs of plain and jumps left with seed 0.

    Of DOCS alone, text and curves are made anew from what was merged there before.
    """
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
