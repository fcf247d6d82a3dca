"""Which process of a distributed run writes."""

from __future__ import annotations

import os

import torch.distributed


def writes_here() -> bool:
    """Whether this process records: rank 0 does, of a run that several processes share.

    Before ``torch.distributed.init_process_group``, the rank is that of the launcher (``torchrun``
    and others set ``RANK``). All ranks of ``DistributedDataParallel`` hold the same weights.

    Examples
    --------
    >>> writes_here()
    True
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    rank = os.environ.get("RANK", "")
    return not rank.isdecimal() or int(rank) == 0
