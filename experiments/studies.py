"""The studies that ``weightcast reproduce`` knows, each imported when it is asked for.

``python -m weightcast.experiments.studies RESULTS docs`` makes their documents anew; without
RESULTS, of the numbers that stand in ``docs`` already.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from weightcast.experiments.study import Study
from weightcast.store import WeightcastError

MODULES = {
    "wus": "weightcast.experiments.wus",
    "imp": "weightcast.experiments.imp",
    "early-phase": "weightcast.experiments.early_phase",
}


def study_of(name: str) -> Study:
    """The study of a name in `MODULES`.

    Examples
    --------
    >>> study_of("imp").networks
    ('lenet', 'resnet20')
    """
    found: Study = import_module(MODULES[name]).STUDY
    return found


@click.command()
@click.argument("places", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(places: tuple[Path, ...]) -> None:
    """Make the documents of the studies that there are numbers of: [RESULTS] DOCS."""
    if len(places) > 2:
        raise click.UsageError(f"give [RESULTS] DOCS, two folders at most: got {len(places)}")
    *results, docs = places
    source = results[0] if results else docs
    names = [name for name in MODULES if (source / name).is_dir()]
    if not names:
        raise click.UsageError(f"no numbers of {', '.join(MODULES)} in {source}")
    for name in names:
        try:
            click.echo(study_of(name).document(results[0] if results else None, docs))
        except WeightcastError as error:
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
