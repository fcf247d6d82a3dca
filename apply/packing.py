"""Many small tensors at once, so that starting torch's operators costs little beside them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

SMALL = 1 << 14  # weights of a tensor up to which it goes with others
AT_ONCE = 1 << 18  # weights of a pack: a megabyte an array, six of which a shared cache holds

T = TypeVar("T")


def packs(items: Iterable[tuple[T, int, Hashable]], most: int = AT_ONCE) -> Iterator[list[T]]:
    """Put small tensors of a kind together, and leave the others alone.

    Parameters
    ----------
    items : iterable of (item, int, kind)
        With each its number of weights, and what the items of a pack must have in common.
    most : int
        Weights that a pack has at most.

    Yields
    ------
    list
        Of items, in their order; small ones come when their pack is full, or at the end.

    Examples
    --------
    >>> list(packs([("bias", 8, "f32"), ("matrix", 50_000, "f32"), ("gain", 8, "f32")]))
    [['matrix'], ['bias', 'gain']]
    """
    waiting: dict[Hashable, tuple[list[T], int]] = {}
    for item, size, kind in items:
        if size > min(SMALL, most):
            yield [item]
            continue
        pack, total = waiting.get(kind, ([], 0))
        if total + size > most:
            yield pack
            pack, total = [], 0
        waiting[kind] = [*pack, item], total + size
    for pack, _ in waiting.values():
        yield pack
