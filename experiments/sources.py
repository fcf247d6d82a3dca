"""Which folder has which data set: those that a user gives, and where Debian puts one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from weightcast.experiments.jobs import Run
from weightcast.experiments.loading import PLACES, Data, load_data
from weightcast.predictor.models import nearest
from weightcast.store import FormatError, InputNotFoundError, UsageError

DEFAULTS = {"fashion": Path("/usr/share/datasets/fashion-mnist")}  # Debian's dataset-fashion-mnist


@dataclass(frozen=True)
class Given:
    """Folders that a user gives.

    Attributes
    ----------
    folders : tuple of Path
        For every data set.
    named : dict of str to Path
        For one: those given for "fashion" are for "fashion-55000" too.
    """

    folders: tuple[Path, ...] = ()
    named: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Given:
        """From texts like "DIR" and "fashion=DIR".

        Raises
        ------
        UsageError
            If there is no data set of that name.
        InputNotFoundError
            If there is no such folder.

        Examples
        --------
        >>> Given.parse(["fashion=/"]).named
        {'fashion': PosixPath('/')}
        """
        folders, named = list[Path](), dict[str, Path]()
        for text in texts:
            name, equals, place = text.partition("=")
            if not equals or Path(text).is_dir():
                folders.append(_folder(text))
            elif name in PLACES:
                named[name] = _folder(place)
            else:
                raise UsageError(f"no data set {name!r:.80}{nearest(name, PLACES)}")
        return cls(tuple(folders), named)

    def folders_of(self, name: str) -> list[Path]:
        """Where to look for a data set, the first one first."""
        for key in (name, family(name)):
            if key in self.named:
                return [self.named[key]]
        default = DEFAULTS.get(family(name))
        return [*self.folders, *([default] if default and default.is_dir() else [])]


@dataclass(frozen=True)
class Found:
    """Data sets, and where they were.

    Attributes
    ----------
    data : dict of str to Data
    folders : dict of str to Path
    missing : dict of str to str
        Of those that were not found: why, and what to do, in one line.
    """

    data: dict[str, Data]
    folders: dict[str, Path]
    missing: dict[str, str]


def family(name: str) -> str:
    """The data set that another is a part of, or itself.

    Examples
    --------
    >>> family("fashion-55000"), family("mnist")
    ('fashion', 'mnist')
    """
    return name.split("-")[0]


def look_for(names: Sequence[str], given: Given) -> Found:
    """Read data sets, each from the first folder that has it."""
    found = Found({}, {}, {})
    for name in names:
        reasons = []
        for folder in given.folders_of(name):
            try:
                found.data[name] = load_data(name, folder)
            except (InputNotFoundError, FormatError) as error:
                reasons.append(str(error))
            else:
                found.folders[name] = folder
                break
        else:
            reasons.append(f"give its folder with --data {family(name)}=DIR")
            found.missing[name] = reasons[0]
    return found


def fetched(missing: Iterable[str], given: Given, place: Path) -> Given:
    """Download the data sets that OpenML has, each to a folder of its name in `place`."""
    from weightcast.experiments.openml import SOURCES, fetch

    names = dict.fromkeys(map(family, missing))
    here = {name: place / name for name in names if name in SOURCES and name not in given.named}
    for name, folder in here.items():
        fetch(name, folder)
    return Given(given.folders, {**given.named, **here})


def supplied(runs: Sequence[Run], found: Found, *, any_of_them: bool) -> tuple[list[Run], str]:
    """Runs whose data are there.

    Parameters
    ----------
    runs : sequence of Run
    found : Found
    any_of_them : bool
        Leave out the others, unless there are no others.

    Returns
    -------
    list of Run
    str
        Which experiments are left out, and why, in one line; empty if none is.

    Raises
    ------
    InputNotFoundError
        With what should be done.
    """
    kept = [run for run in runs if found.missing.keys().isdisjoint(run.data)]
    lacking = [
        f"{', '.join(dict.fromkeys(r.experiment.name for r in runs if name in r.data))}: {why}"
        for name, why in found.missing.items()
    ]
    if lacking and not (kept and any_of_them):
        raise InputNotFoundError(f"no data for {'; '.join(lacking)}")
    return kept, f"left out, without data: {'; '.join(lacking)}" if lacking else ""


def _folder(text: str) -> Path:
    with suppress(RuntimeError):  # no such user
        text = str(Path(text).expanduser()) if text else text
    folder = Path(text)
    if not text or not folder.is_dir():
        raise InputNotFoundError(f"--data must be a folder, or NAME=FOLDER: there is no {text}")
    return folder
