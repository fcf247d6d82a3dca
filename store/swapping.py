"""Putting a finished file or folder in the place of another, whenever the process is killed.

::

    Linux        .run.partial-HOST-7.zarr <-> run.zarr     the two change places, in one step
    elsewhere    run.zarr -> .run.retired-HOST-7.zarr      killed here, nothing is called run.zarr:
                 .run.partial-HOST-7.zarr -> run.zarr      who looks for it is told what to rename
                 .run.retired-HOST-7.zarr -> .run.partial-HOST-7.zarr
    then         .run.partial-HOST-7.zarr is deleted       or by the next run, if this one is killed
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path


def _host() -> str:
    """A short name of this machine, and of this container: numbers of processes hold there."""
    space = Path("/proc/self/ns/pid")
    name = f"{socket.gethostname()} {space.readlink() if space.exists() else ''}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]


HOST = _host()
_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE


def discard(path: Path) -> None:
    """Delete a folder so that a process killed meanwhile leaves no half of it under its name."""
    temporary = sibling(path, "partial")
    remove(temporary)
    path.replace(temporary)
    remove(temporary)


def flush(folder: Path) -> None:
    """Have the system write all files of a folder to the disk, before what they replace goes."""
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def interrupted(path: Path) -> str:
    """What to do if a process was killed while it replaced `path`; empty if none was."""
    if not path.parent.is_dir():
        return ""
    name = re.compile(rf"\.{re.escape(path.stem)}\.retired-[0-9a-f-]+{re.escape(path.suffix)}")
    old = next((p for p in path.parent.iterdir() if name.fullmatch(p.name)), None)
    return f"a process killed while it replaced it left it as {old}: rename that" if old else ""


def sibling(path: Path, what: str) -> Path:
    """A hidden name beside `path` that no other process takes."""
    return path.with_name(f".{path.stem}.{what}-{HOST}-{os.getpid()}{path.suffix}")


def remove_stale(path: Path, free: Path) -> None:
    """Delete what processes of this machine that were killed left of this output.

    `free` is a name that is not taken.
    """
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    name = re.compile(rf"\.{stem}\.partial-{HOST}-(\d{{1,10}}){suffix}")
    for entry in path.parent.iterdir():
        match = name.fullmatch(entry.name)
        if match and not _alive(int(match[1])):
            with suppress(OSError):  # another process was quicker, or it is somebody else's
                # Under our name first: its writer, should it live on another machine, must not
                # put a folder in place that is being deleted.
                entry.replace(free)
                remove(free)


def _alive(process: int) -> bool:
    """Whether a process of this machine has this number; if in doubt, it has."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def swap(temporary: Path, path: Path) -> None:
    """Put `temporary` in the place of `path`; on failure `path` is as it was."""
    if temporary.is_file() and not path.is_dir():
        temporary.replace(path)  # in one step
        return
    temporary.stat()  # nothing was written: fail before anything moves
    if not (path.exists() or path.is_symlink()):
        temporary.replace(path)
        return
    if _exchange(temporary, path):
        return
    retired = sibling(path, "retired")
    path.replace(retired)
    try:
        temporary.replace(path)
    except BaseException:
        retired.replace(path)
        raise
    retired.replace(temporary)  # a name that the next one removes, should this one be killed


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step, where the system and the file system can."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (os.fsencode(one), os.fsencode(other))
    return rename is not None and rename(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
