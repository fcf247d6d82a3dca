"""Which folder has which data set: those that a user gives, and where Debian puts one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
    coming : dict of str to Path
        Of those that would be downloaded: where to.
    """

    data: dict[str, Data]
    folders: dict[str, Path]
    missing: dict[str, str]
    coming: dict[str, Path] = field(default_factory=dict)

    def __str__(self) -> str:
        """What was found, where, and what would be downloaded: a line each."""
        lines = [f"{data.about} (in {self.folders[name]})" for name, data in self.data.items()]
        lines += [f"{name}: would be downloaded to {place}" for name, place in self.coming.items()]
        return "\n".join(dict.fromkeys(lines))


def family(name: str) -> str:
    """The data set that another is a part of, or itself.

    Examples
    --------
    >>> family("fashion-55000"), family("mnist")
    ('fashion', 'mnist')
    """
    return name.split("-")[0]


def look_for(names: Sequence[str], given: Given) -> Found:
    """Read data sets, each from the first folder that has it.

    MNIST and Fashion-MNIST come in files of the same names, so that a folder may pass for either:
    it is that of one only, and of what is at hand anyway last.
    """
    found = Found({}, {}, {})
    for name in sorted(names, key=lambda n: family(n) in DEFAULTS):
        reasons = []
        for folder in given.folders_of(name):
            try:
                data = load_data(name, folder)
                _refuse_twice(name, data, folder, found)
            except (InputNotFoundError, FormatError) as error:
                reasons.append(str(error))
            else:
                found.data[name], found.folders[name] = data, folder
                break
        else:
            reasons.append(f"give its folder with --data {family(name)}=DIR{_or_download(name)}")
            found.missing[name] = reasons[0]
    return found


def _refuse_twice(name: str, data: Data, folder: Path, found: Found) -> None:
    """Refuse files that another data set was read from."""
    for other, known in found.data.items():
        if family(other) != family(name) and {*data.sha256.values()} & {*known.sha256.values()}:
            raise FormatError(f"the files in {folder} are taken for {other}'s, not for {name}'s")


def find_data(
    names: Sequence[str], given: Given, place: str | Path | None, *, dry_run: bool
) -> Found:
    """Read data sets, and download those that are missing and that OpenML has.

    Parameters
    ----------
    names : sequence of str
    given : Given
    place : str, Path or None
        Folder for downloads, each in a folder of its name: looked in first. None for no downloads.
    dry_run : bool
        Only say what would be downloaded.
    """
    from weightcast.experiments.openml import SOURCES, fetch

    if place is None:
        return look_for(names, given)
    before = (Path(place),) if Path(place).is_dir() else ()
    given = Given((*given.folders, *before), given.named)
    found = look_for(names, given)
    wanted = dict.fromkeys(map(family, found.missing))
    here = {name: Path(place, name) for name in wanted if name in SOURCES.keys() - given.named}
    if dry_run:
        coming = {name: here[family(name)] for name in found.missing if family(name) in here}
        missing = {name: why for name, why in found.missing.items() if name not in coming}
        return replace(found, missing=missing, coming=coming)
    for name, folder in here.items():
        fetch(name, folder)
    return look_for(names, Given(given.folders, {**given.named, **here}))


def supplied(
    runs: Sequence[Run], found: Found, *, any_of_them: bool
) -> tuple[list[Run], list[str]]:
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
    list of str
        Which experiments are left out, and why: a line each.

    Raises
    ------
    InputNotFoundError
        With what should be done.
    """
    kept = [run for run in runs if found.missing.keys().isdisjoint(run.data)]
    lacking = {
        name: list(dict.fromkeys(run.experiment.name for run in runs if name in run.data))
        for name in found.missing
    }
    if lacking and not (kept and any_of_them):
        whys = (f"{', '.join(lacking[name])}: {why}" for name, why in found.missing.items())
        raise InputNotFoundError(f"no data for {'; '.join(whys)}")
    return kept, [
        f"left out, without data: {experiment}: {found.missing[name]}"
        for name, experiments in lacking.items()
        for experiment in experiments
    ]


def _or_download(name: str) -> str:
    """What else than --data there is."""
    from weightcast.experiments.openml import SOURCES

    return ", or --fetch DIR" if family(name) in SOURCES else ": --fetch cannot download it"


def _folder(text: str) -> Path:
    with suppress(RuntimeError):  # no such user
        text = str(Path(text).expanduser()) if text else text
    folder = Path(text)
    if not text or not folder.is_dir():
        raise InputNotFoundError(f"--data must be a folder, or NAME=FOLDER: there is no {text}")
    return folder
