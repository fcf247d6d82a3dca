"""Scratch files of a job: plain arrays, each there whole or not at all."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt


class NewFile:
    """Write a file that gets its name when it is complete, also if two workers write it at once.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        Naming the file, where the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "numbers")
    >>> with NewFile(path) as file:
    ...     file.write(np.arange(3))
    ...     path.exists()
    False
    >>> np.fromfile(path, np.int64).tolist()
    [0, 1, 2]
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with _naming(path):
            self._file = self._temporary.open("wb")

    def __enter__(self) -> Self:
        return self

    def write(self, values: npt.NDArray[Any]) -> None:
        """Append the numbers of an array."""
        with _naming(self._path):
            self._file.write(np.ascontiguousarray(values).data)

    def __exit__(self, kind: object, *_: object) -> None:
        with _naming(self._path):
            self._file.close()
            if kind is None:
                self._temporary.replace(self._path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be written."""
    try:
        yield
    except FileNotFoundError:  # the job is over
        raise
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
