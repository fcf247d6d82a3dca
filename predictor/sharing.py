"""Sharing forecasters: a folder, or a repository of the Hugging Face Hub, with a card beside.

::

    push  f.safetensors -> FOLDER/forecaster.safetensors  ->  pull  -o g.safetensors
                           FOLDER/README.md (the card)
          or                hf://owner/name, of the same two files
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from weightcast.predictor import hub
from weightcast.predictor.by_name import find
from weightcast.predictor.cards import card_text
from weightcast.predictor.files import SUFFIXES, check_suffix, load_with_card, read_header
from weightcast.predictor.headers import Header
from weightcast.store import FormatError, InputNotFoundError, OutputExistsError, UsageError
from weightcast.store.output import refuse_existing, replacing

CARD = "README.md"
FILES = tuple(f"forecaster{suffix}" for suffix in SUFFIXES)
_SCHEME = "hf://"
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_]|[.-](?=[A-Za-z0-9_])){0,95}"  # no two of . and - in a row
_ADDRESS = re.compile(rf"({_NAME}/{_NAME})(?:@([A-Za-z0-9_][A-Za-z0-9_./-]{{0,200}}))?")


@dataclass(frozen=True)
class Repository:
    """A model repository of the Hub.

    Attributes
    ----------
    name : str
        ``owner/name``.
    revision : str or None
        Branch, tag or commit; None for the main branch.

    Examples
    --------
    >>> Repository.of("hf://me/line@v1")
    Repository(name='me/line', revision='v1')
    >>> Repository.of("folder") is None
    True
    """

    name: str
    revision: str | None = None

    @classmethod
    def of(cls, address: str | Path) -> Repository | None:
        """Read ``hf://owner/name`` or ``hf://owner/name@revision``; None for a local path.

        Raises
        ------
        UsageError
            If it is another URL, or no name that the Hub has.
        """
        text = str(address)
        if "://" not in text:
            return None
        found = _ADDRESS.fullmatch(text.removeprefix(_SCHEME))
        good = found and not found[1].endswith(".git") and ".." not in text
        if not (text.startswith(_SCHEME) and found and good):
            raise UsageError(
                f"an address is a folder, hf://owner/name or hf://owner/name@revision: got "
                f"{text!r:.200}"
            )
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{_SCHEME}{self.name}" + (f"@{self.revision}" if self.revision else "")


def push(
    forecaster: str | Path,
    target: str | Path,
    *,
    overwrite: bool = False,
    private: bool = False,
    endpoint: str | None = None,
) -> str:
    """Put a forecaster's file and its card into a folder, or onto the Hub.

    Parameters
    ----------
    forecaster : str or Path
        A file, or the name of a pretrained forecaster.
    target : str or Path
        A folder, which must be new, empty or, with `overwrite`, of an earlier push; or
        ``hf://owner/name``, which is made if it is not there.
    overwrite : bool
        Replace what was pushed there before.
    private : bool
        Of the Hub: nobody else sees it.
    endpoint : str, optional
        Another Hub than huggingface.co; by default what HF_ENDPOINT says.

    Returns
    -------
    str
        Where it is now.

    Raises
    ------
    InputNotFoundError, FormatError
        If `forecaster` is none.
    OutputExistsError
        If the target has such files already, or a folder has others.
    UsageError
        If the target is neither.
    RemoteError
        If the Hub refuses or does not answer, or there is no token for it.
    MissingExtraError
        If huggingface_hub is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.predictor import LinearFit, save
    >>> folder = Path(tempfile.mkdtemp())
    >>> file = save(LinearFit(), folder / "fit.safetensors")
    >>> _ = push(file, folder / "shared")
    >>> sorted(path.name for path in (folder / "shared").iterdir())
    ['README.md', 'forecaster.safetensors']
    >>> pull(folder / "shared", folder / "pulled.safetensors").model
    'linear-fit'
    """
    repository, path = Repository.of(target), find(forecaster)
    header = _checked(path)
    name, card = f"forecaster{path.suffix}", card_text(header)
    if repository is not None:
        content = {name: path.read_bytes(), CARD: card.encode()}
        return hub.push(
            repository.name,
            repository.revision,
            content,
            replaced=(*FILES, CARD),
            overwrite=overwrite,
            private=private,
            endpoint=endpoint,
        )
    if private:
        raise UsageError("--private is of the Hub: a folder is as private as you make it")
    folder = Path(target).resolve()
    _refuse_folder(folder, overwrite=overwrite)
    with replacing(folder) as temporary:
        temporary.mkdir()
        shutil.copyfile(path, temporary / name)
        (temporary / CARD).write_text(card)
    return str(target)


def pull(
    source: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    endpoint: str | None = None,
) -> Header:
    """Get a forecaster that somebody pushed, and check it before it is kept.

    Parameters
    ----------
    source : str or Path
        A folder, ``hf://owner/name`` or ``hf://owner/name@revision``.
    output : str or Path
        File to write.
    overwrite : bool
        Replace a file that stands there.
    endpoint : str, optional
        Another Hub than huggingface.co; by default what HF_ENDPOINT says.

    Returns
    -------
    Header
        What it is.

    Raises
    ------
    InputNotFoundError, FormatError
        If there is none, or it is damaged.
    OutputExistsError, UsageError
        If `output` is taken, or its suffix is of another kind of forecaster.
    RemoteError, MissingExtraError
        As for `push`.
    """
    output = refuse_existing(output, overwrite=overwrite, kind="file")
    repository = Repository.of(source)
    if repository is None:
        return _copied(Path(source), output)
    with TemporaryDirectory() as folder:
        name, revision = repository.name, repository.revision
        hub.pull(name, revision, FILES, Path(folder), endpoint=endpoint)
        return _copied(Path(folder), output)


def _copied(folder: Path, output: Path) -> Header:
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if folder.is_file():
        raise UsageError(f"{folder} is a file: it can be used as it is; pull takes a folder")
    if len(found) != 1:
        what = "both" if found else "neither"
        raise InputNotFoundError(
            f"a shared forecaster is a folder with {' or '.join(FILES)}: {folder} has {what}"
        )
    header = _checked(found[0])
    check_suffix(output, header)
    with replacing(output) as temporary:
        shutil.copyfile(found[0], temporary)
    return header


def _checked(path: Path) -> Header:
    """The header of a file; all of it is checked but what takes trust to load."""
    header = read_header(path)
    try:
        check_suffix(path, header)
    except UsageError as error:
        raise FormatError(str(error)) from error
    if path.suffix != SUFFIXES[1]:
        load_with_card(path)
    return header


def _refuse_folder(folder: Path, *, overwrite: bool) -> None:
    names = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(names - {*FILES, CARD})
    if (folder.exists() and not folder.is_dir()) or others or names == {CARD}:
        what = f"holds {(others or [CARD])[0]!r}" if names else "is a file"
        raise OutputExistsError(
            f"push makes a folder of its own: {folder} {what}; choose another one"
        )
    if names and not overwrite:
        raise OutputExistsError(
            f"output {folder} exists: choose another folder or pass --overwrite"
        )
