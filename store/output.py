"""Writing outputs so that nothing is half written and nothing is lost.

::

    replacing(path):   write -> .path.partial-HOST-PID  --success-->  change places with path
                                                   --error---->  removed, path untouched
                                                   --killed--->  removed by the next one
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from weightcast.store.errors import OutputExistsError, RecordingError
from weightcast.store.remote import require_local
from weightcast.store.ring import in_use
from weightcast.store.swapping import interrupted, remove, remove_stale, sibling, swap

Kind = Literal["history", "dataset", "variation", "file"]


def refuse_existing(
    path: str | Path,
    *,
    overwrite: bool = False,
    kind: Kind | None = None,
    inputs: Sequence[str | Path] = (),
    hint: str = "",
    locked: bool = False,
) -> Path:
    """Check that `path` is free to write, before any work is done.

    Parameters
    ----------
    path : str or Path
        The output to be written, a file or a folder.
    overwrite : bool
        Accept an existing output, if it is ours to replace: a file, or a Zarr group that
        weightcast wrote. Any other folder is refused all the same.
    kind : {"history", "dataset", "variation", "file"}, optional
        What will be written: only the same kind is replaced.
    inputs : sequence of str or Path
        What the output is made from, and so must not replace.
    hint : str
        Further advice for the message, such as another option that would do.
    locked : bool
        The caller itself holds the lock of a history that is being recorded.

    Returns
    -------
    Path
        The path, unchanged.

    Raises
    ------
    OutputExistsError
        If the path is taken and may not be replaced.
    UsageError
        If it is a URL.

    Examples
    --------
    >>> refuse_existing("/").name
    Traceback (most recent call last):
    weightcast.store.errors.OutputExistsError: output / exists: choose another path
    """
    require_local(path)
    path = Path(path)
    above = next((p for p in path.parents if p.exists()), path)
    if above.is_file():
        raise OutputExistsError(f"output {path} would lie below {above}, which is a file")
    _refuse_inputs(path, inputs)
    if not path.exists():
        if old := interrupted(path):
            raise OutputExistsError(f"output {path} is taken: {old}")
        return path
    found = _kind(path)
    if found is None or (kind is not None and found != kind):
        advice = "choose another path"
        if overwrite:
            wanted = f"a weightcast {kind or 'output'}" if kind != "file" else "a file"
            advice = f"it is not {wanted}, so --overwrite will not delete it; {advice}"
        raise OutputExistsError(f"output {path} exists: {advice}")
    if not overwrite:
        raise OutputExistsError(
            f"output {path} exists: choose another path or pass --overwrite{hint}"
        )
    if found == "history" and not locked and in_use(path):
        raise RecordingError(
            f"{path} is being recorded by another process: let it end, or choose another path"
        )
    return path


def _refuse_inputs(path: Path, inputs: Sequence[str | Path]) -> None:
    """Check that the output neither is an input nor holds one, nor lies in one."""
    here = path.resolve()
    for given in inputs:
        there = Path(given).resolve()
        if here == there:
            raise OutputExistsError(f"output {path} is an input too: choose another path")
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise OutputExistsError(
                f"output {path} and input {given} must not lie in each other: choose another path"
            )


def check_writable(path: Path) -> None:
    """Find out before any work is done whether an output can be made; makes its folder.

    Raises
    ------
    OSError
        As the system says it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=path.parent):
        pass


def _kind(path: Path) -> Kind | None:
    """What stands at a path; None for a folder that is not ours to delete."""
    if path.is_file():
        return "file"
    try:
        document = json.loads((path / "zarr.json").read_text())
        header = document["attributes"]["weightcast"]
        kinds: dict[str, Kind] = {
            "parameters": "history",
            "recipe": "dataset",
            "variation": "variation",
        }
        ours = isinstance(header, dict)
        return next((kind for key, kind in kinds.items() if ours and key in header), None)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


@contextmanager
def replacing(path: str | Path, part: str = "", *, new: bool = False) -> Iterator[Path]:
    """Write an output under a temporary name and rename it into place on success.

    Parameters
    ----------
    path : str or Path
        Where the finished output shall stand. An output already there is replaced only once the
        new one is complete.
    part : str
        What of the temporary path is the output, where that is a folder that holds more.
    new : bool
        Refuse to replace what another process has put there meanwhile.

    Yields
    ------
    Path
        The temporary path, in the same folder and with the same suffix; nothing stands there yet.

    Raises
    ------
    OutputExistsError
        With `new`, in the end.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "out.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("done")
    ...     target.exists()
    False
    >>> target.read_text()
    'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = sibling(path, "partial")
    remove(temporary)
    remove_stale(path, temporary)
    try:
        yield temporary
        if new and path.exists():
            raise OutputExistsError(
                f"output {path} was made by another process meanwhile: choose another path or pass "
                "--overwrite"
            )
        swap(temporary / part, path)
    except BaseException:
        with suppress(OSError):  # what failed says more, and the next one removes what is left
            remove(temporary)
        raise
    with suppress(OSError) if part else nullcontext():  # a late worker may still write there
        remove(temporary)


def write_text(path: str | Path, text: str, *, new: bool = False) -> None:
    """Write a text file as `replacing` does: at once and whole, in UTF-8."""
    with replacing(path, new=new) as temporary:
        temporary.write_text(text, encoding="utf-8")
