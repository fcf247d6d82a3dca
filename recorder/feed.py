"""The trainer's end of the ring: room for the next row, and the drain process that makes it.

The process is started only once there is something to gain: a short run of a small model writes its
history itself, at the end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal, get_args

from weightcast.store import RecordingError, UsageError, WeightcastError
from weightcast.store.draining import finish, other_ranks
from weightcast.store.reading import one_line
from weightcast.store.ring import Ring
from weightcast.store.ringplan import SMALL

WhenFull = Literal["block", "skip"]
OnError = Literal["raise", "warn"]

START_SECONDS = 5.0  # after which a drain process starts, also for a ring that is hardly used
WATCH_SECONDS = 1.0  # how soon a drain process that died is noticed
WAIT_SECONDS = 5e-4  # between looks at a full ring

# glibc gives freed megabytes back at once, and new pages cost as much as a quarter of the encoding.
KEEP_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}


def check_policies(when_full: str, on_error: str) -> None:
    """Refuse unknown words for what to do when the ring is full, or recording fails."""
    for name, word, words in (
        ("when_full", when_full, get_args(WhenFull)),
        ("on_error", on_error, get_args(OnError)),
    ):
        if word not in words:
            raise UsageError(f"{name} must be one of {', '.join(words)}: got {word!r}")


class Feed:
    """Gives rows of a ring to the drain process, which it starts and watches.

    Parameters
    ----------
    ring : Ring
    history : Path
        Its history, which exists.
    when_full : {"block", "skip"}
        What to do when the drain process is a whole ring behind.
    """

    def __init__(self, ring: Ring, history: Path, when_full: WhenFull) -> None:
        self.ring, self._history, self._when_full = ring, history, when_full
        self.skipped = 0
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._begin = self._watched = time.monotonic()
        if ring.plan.size > SMALL:
            # The first pass over new pages would cost the training loop several times a copy.
            threading.Thread(target=ring.populate, daemon=True).start()

    def room(self) -> bool:
        """Whether the next slot is free; waits for it, or counts the row as skipped.

        Raises
        ------
        RecordingError
            If the drain process has failed.
        """
        if self.forked:
            return False
        return not self.ring.full or self._wait("full") or self._skip()

    def push(self) -> None:
        """Hand over the row in the next slot."""
        if self.forked:
            return
        ring = self.ring
        ring.push()
        if ring.written % ring.plan.block == 0:
            self._wake()
        else:
            self._watch()

    def log(self, step: int, name: str, value: float) -> bool:
        """Hand over an entry of a metric; False if it was skipped."""
        if self.forked or not self._wait("crowded"):
            return False
        self.ring.log(step, name, value)
        return True

    def close(self) -> None:
        """Wait until everything is in the history, and delete the ring file.

        Raises
        ------
        RecordingError
            If it cannot be written; the ring file stays.
        """
        if self.forked:
            return
        self.ring.closing = 1
        failure = ""
        if self._process is not None:
            self._poke()
            failure = self._ended(self._process.wait())
            self._close_pipe()
        try:
            # What a drain process did not do, or what it left: nothing, if all went well.
            others = other_ranks(self.ring, self._history)
            finish([self.ring, *others], self._history)
        except (WeightcastError, OSError) as error:
            rows = self.ring.written - self.ring.drained
            self.ring.release()
            raise RecordingError(
                f"{rows} recorded steps could not be added to {self._history}: "
                f"{failure or one_line(error)}: they wait in {self.ring.path}; put that right, and "
                f"run 'weightcast recover {self._history}'"
            ) from error
        for ring in (self.ring, *(o for o in others if o.ended and not o.closing)):
            ring.remove()  # ours, and those of ranks that are dead

    def __del__(self) -> None:
        self._close_pipe()  # of a recorder that was dropped: the drain process then finishes

    @property
    def forked(self) -> bool:
        """Whether this is a forked child's copy: the ring is for its parent to write."""
        return os.getpid() != self._owner

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pipe = -1

    def _wait(self, state: Literal["full", "crowded"]) -> bool:
        """Whether there is room, at once or after waiting for it."""
        if not getattr(self.ring, state):
            return True
        self._wake()
        while self._when_full == "block" and getattr(self.ring, state):
            time.sleep(WAIT_SECONDS)
            self._watch()
        return not getattr(self.ring, state)

    def _skip(self) -> bool:
        self.skipped += 1
        return False

    def _wake(self) -> None:
        """Start the drain process, or tell it that there is work."""
        if self._process is None:
            self.start()
        else:
            self._poke()
            self._watch()

    def _poke(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it is awake, or it is dead
            os.write(self._pipe, b"\n")

    def _watch(self) -> None:
        """From time to time: start the drain process, or see whether it is well."""
        now = time.monotonic()
        if now - self._watched < WATCH_SECONDS:
            return
        self._watched = now
        if self._process is None:
            if now - self._begin > START_SECONDS:
                self.start()
        elif self._process.poll() is not None:
            failure = self._ended(self._process.returncode)
            for ring in other_ranks(self.ring, self._history):
                ring.fail(failure)  # other ranks would wait for ever
            raise RecordingError(f"recording into {self._history} has stopped: {failure}")

    def _ended(self, code: int) -> str:
        """Why the drain process ended before its time; empty if it did its work."""
        if code == 0:
            return ""
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        return self.ring.failure or f"the drain process {how}"

    def start(self) -> None:
        """Start the drain process."""
        read, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, and numbers
                [
                    *(sys.executable, "-P", "-m", "weightcast.store.drain"),
                    *(str(self._history), str(self.ring.descriptor), str(os.getpid())),
                ],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[self.ring.descriptor],
                env={**os.environ, **KEEP_PAGES},
                start_new_session=True,  # Ctrl-C is for the trainer; the process then finishes
            )
        except BaseException:
            self._close_pipe()
            raise
        finally:
            os.close(read)
