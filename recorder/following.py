"""The trainer's end of the ring on a further rank of a sharded model."""

from __future__ import annotations

import time

from weightcast.recorder.feed import WAIT_SECONDS, WATCH_SECONDS, Feed
from weightcast.store import RecordingError
from weightcast.store.ring import in_use, ring_path

SILENT_SECONDS = 60.0  # without a sign of rank 0's drain process, while this rank waits for it


class Follower(Feed):
    """Gives rows to rank 0's drain process, which commits them with those of the other ranks."""

    _beat = -1
    _heard = 0.0

    def log(self, step: int, name: str, value: float) -> bool:
        """Metrics are rank 0's to record."""
        return True

    def close(self) -> None:
        """Wait until rank 0 has committed everything, and delete the ring file.

        Raises
        ------
        RecordingError
            If rank 0 cannot, or is dead; the ring file stays.
        """
        ring, first = self.ring, ring_path(self._history)
        ring.closing = 1
        try:
            while ring.drained < ring.written and first.exists():
                time.sleep(WAIT_SECONDS)
                self._watch()
        except RecordingError as error:
            if first.exists():  # else rank 0 is done, and all rows that are whole are committed
                ring.release()
                raise RecordingError(
                    f"{error}: steps of this rank wait in {ring.path}; put that right, and run "
                    f"'weightcast recover {self._history}'"
                ) from error
        ring.remove()

    def start(self) -> None:
        """Rank 0 starts the drain process."""

    def _wake(self) -> None:
        self._watch()

    def _watch(self) -> None:
        """From time to time, see whether rank 0 and its drain process are well."""
        now = time.monotonic()
        if now - self._watched < WATCH_SECONDS:
            return
        if self.ring.beat != self._beat or now - self._watched > SILENT_SECONDS:
            self._beat, self._heard = self.ring.beat, now  # or this rank was long elsewhere
        self._watched = now
        failure = self.ring.failure
        if not failure and not in_use(self._history):
            failure = "rank 0 has ended"
        elif not failure and self.ring.full and now - self._heard > SILENT_SECONDS:
            failure = "the drain process of rank 0 is not at work"
        if failure:
            raise RecordingError(f"recording into {self._history} has stopped: {failure}")
