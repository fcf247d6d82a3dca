"""Torch's state around the training of small networks: its threads, and what a caller has set."""

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


@contextmanager
def plain_torch() -> Iterator[None]:
    """Torch as it is when a process starts, whatever the caller has set; its state comes back.

    But for the default device: to hold it takes as long as a small network's step itself, so code
    inside says where a new tensor goes.

    Examples
    --------
    >>> with torch.no_grad(), plain_torch():
    ...     torch.is_grad_enabled()
    True
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.random.fork_rng(devices=[]),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
