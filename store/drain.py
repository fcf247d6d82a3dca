"""The drain process: ``python -m weightcast.store.drain HISTORY DESCRIPTOR PARENT``.

The recorder starts it with the ring file open, and so locked, as DESCRIPTOR. It ends when the
trainer says so, or is no more: by exit, exception or ``kill -9``.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from weightcast.store.draining import Drain, other_ranks
from weightcast.store.reading import one_line
from weightcast.store.ring import Ring, ring_path
from weightcast.store.writer import HistoryWriter

FLUSH_SECONDS = 30.0  # how far a reader may be behind; nothing is lost for being in the ring
LOOK_SECONDS = 0.5  # how soon a trainer that was killed is noticed


def main(arguments: Sequence[str]) -> int:
    """Drain until the trainer is done or dead; a failure is left in the ring for the trainer."""
    history, descriptor, parent = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    ring = Ring.open(ring_path(history), descriptor)
    if ring is None:
        return 1
    rings = [ring]
    try:
        rings += other_ranks(ring, history)
        _serve(rings, HistoryWriter(history), parent)
    except Exception as error:  # nobody sees this process: whatever it is, the trainer says it
        for ring in rings:
            ring.fail(one_line(error))
        return 1
    return 0


def _serve(rings: list[Ring], writer: HistoryWriter, parent: int) -> None:
    drain, flushed = Drain(rings, writer), time.monotonic()
    while True:
        alone = os.getppid() != parent
        # Looked at before the rows are counted: then these are all.
        last = (alone or bool(rings[0].closing)) and drain.complete
        late = time.monotonic() - flushed > FLUSH_SECONDS
        drain.run(everything=last or late)
        for ring in rings:
            ring.beat += 1
        if late:
            flushed = time.monotonic()
        if last:
            break
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], LOOK_SECONDS)
        if ready and not os.read(sys.stdin.fileno(), 4096):
            parent = -1  # the recorder is gone, even if its process is not
    for ring in rings if alone else rings[1:]:
        if not ring.closing and (ring is rings[0] or ring.ended):
            ring.remove()  # its writer is dead; else it removes its ring itself


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
