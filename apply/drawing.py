"""Random generators by what is drawn: the same on every device, whatever else is drawn."""

from __future__ import annotations

from hashlib import sha256

import torch


def generator_of(words: str) -> torch.Generator:
    """A generator on the CPU that depends on some words alone, such as a seed and a name.

    Examples
    --------
    >>> generator_of("0/conv1.weight").initial_seed()
    8167848660666393940
    """
    digest = sha256(words.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
