"""How many threads torch uses for networks too small to share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU operators on one thread while the context is open.

    Layers of tens of units take microseconds; handing them to a second thread costs more than they
    do, and on a busy machine several times more (measured on 2 cores under load: 1.6 ms a training
    step of the Introspection network with two threads, 0.5 ms with one).

    Examples
    --------
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(kept)
