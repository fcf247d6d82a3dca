"""Writing outputs so that nothing is half written and nothing is lost.

::

    replacing(path):   write -> .path.partial-PID  --success-->  rename to path
                                                   --error---->  removed, path untouched
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weightcast.store.errors import OutputExistsError


def refuse_existing(path: str | Path, *, overwrite: bool = False, hint: str = "") -> Path:
    """Check that `path` is free to write, before any work is done.

    Parameters
    ----------
    path : str or Path
        The output to be written, a file or a folder.
    overwrite : bool
        Accept an existing output, if it is one of ours to replace: a file, or a Zarr group that
        weightcast wrote. Any other folder is refused all the same.
    hint : str
        Further advice for the message, such as another option that would do.

    Returns
    -------
    Path
        The path, unchanged.

    Raises
    ------
    OutputExistsError
        If the path is taken and may not be replaced.

    Examples
    --------
    >>> refuse_existing("/").name
    Traceback (most recent call last):
    weightcast.store.errors.OutputExistsError: output / exists: choose another path
    """
    path = Path(path)
    if not path.exists():
        return path
    ours = path.is_file() or _is_our_group(path)
    if not ours:
        advice = "choose another path"
        if overwrite:
            advice = "it is not a weightcast output, so --overwrite will not delete it; " + advice
        raise OutputExistsError(f"output {path} exists: {advice}")
    if not overwrite:
        raise OutputExistsError(
            f"output {path} exists: choose another path or pass --overwrite{hint}"
        )
    return path


def _is_our_group(path: Path) -> bool:
    try:
        document = json.loads((path / "zarr.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "weightcast" in (document.get("attributes") or {})


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write an output under a temporary name and rename it into place on success.

    Parameters
    ----------
    path : str or Path
        Where the finished output shall stand. An output already there is replaced only once the
        new one is complete.

    Yields
    ------
    Path
        The temporary path, in the same folder and with the same suffix; nothing stands there yet.

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
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    remove(temporary)
    try:
        yield temporary
        if path.is_dir():
            retire(path)
        temporary.replace(path)
    finally:
        remove(temporary)


def retire(path: Path) -> None:
    """Take a folder out of the way in one step, then delete it.

    A reader or a crash never meets a half-deleted folder under the old name.
    """
    retired = path.with_name(f".{path.name}.retired-{os.getpid()}")
    path.replace(retired)
    remove(retired)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
