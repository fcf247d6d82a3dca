"""The lines that a script prints, seen without a change to its script or to its output.

The stream stays the object that it is: only its ``write`` is ours for a while. Whatever asks it for
a terminal, a file number or a buffer, and whoever has kept it since before, finds it as it was.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

MOST = 65_536  # characters of a line that does not end
_END = re.compile(r"[\r\n]")  # a progress bar returns to the start of its line


class OutputTap:
    r"""Tells a listener the lines that are written to ``sys.stdout`` and ``sys.stderr``.

    A line ends with ``\n`` or ``\r``; one that does not is told when the context ends. What is
    written while the listener runs, or within `deaf`, is our own and is not told. Nor is what
    another process writes, or a library below Python.

    Parameters
    ----------
    listener : callable
        Called with each line, right after it was written.

    Examples
    --------
    >>> seen = []
    >>> with OutputTap(seen.append).on():
    ...     print("loss", end=" ")
    ...     print(0.5)
    loss 0.5
    >>> seen
    ['loss 0.5']
    """

    def __init__(self, listener: Callable[[str], object]) -> None:
        self._listener = listener
        self._deaf = threading.local()
        self._process = os.getpid()

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Listen while the context is open."""
        streams = {id(s): _Stream(s) for s in (sys.stdout, sys.stderr) if s is not None}
        for stream in streams.values():
            stream.patch(self._hear)
        try:
            yield
            for stream in streams.values():
                self._hear(stream, "\n")
        finally:
            for stream in streams.values():
                stream.restore()

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Do not listen to this thread while the context is open."""
        before, self._deaf.now = getattr(self._deaf, "now", False), True
        try:
            yield
        finally:
            self._deaf.now = before

    def _hear(self, stream: _Stream, text: str) -> None:
        # a forked process has a copy of all of this, and of the model
        if getattr(self._deaf, "now", False) or os.getpid() != self._process:
            return
        for line in stream.lines(text):
            with self.deaf():
                self._listener(line)


class _Stream:
    """One stream, and the line that it is in the middle of."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._on, self._rest = stream, True, ""

    def patch(self, hear: Callable[[_Stream, str], None]) -> None:
        write = self._stream.write

        def writing(text: str) -> Any:
            written = write(text)
            if self._on:
                hear(self, text)
            return written

        self._own = vars(self._stream).get("write")
        self._stream.write = self._writing = writing

    def restore(self) -> None:
        """Give ``write`` back; what somebody has put around ours is left there."""
        self._on = False
        if vars(self._stream).get("write") is not self._writing:
            return
        if self._own is None:
            del self._stream.write
        else:
            self._stream.write = self._own

    def lines(self, text: str) -> list[str]:
        """The lines that end in a text; what comes after them is kept."""
        *ended, rest = _END.split(self._rest + text)
        self._rest = rest[-MOST:]
        return [line for line in ended if line]
