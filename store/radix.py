"""Exact order statistics of numbers that never stand in one array.

Numbers become unsigned integers of the same order. Each pass over them counts the next digit of
those whose first digits are known, and so finds the next digit of the number of a given rank::

    keys (8 bits, digits of 4)   0x21 0x24 0x2f 0x30 0xa0       which one has rank 2?
    pass 1: first digits         2: three, 3: one, a: one       rank 2 of the three with digit 2
    pass 2: digits after 2       1: one, 4: one, f: one         0x2f

Counts add up, so that any number of workers can count any parts, in any order. A bracket that holds
few numbers need not be narrowed further: they can be collected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

DIGIT_BITS = 12  # 32 kB of counts a bracket; a float32 is known after three passes

Words = npt.NDArray[np.unsignedinteger[Any]]
Counts = npt.NDArray[np.int64]


def ordered_bits(values: npt.NDArray[np.floating[Any]]) -> Words:
    """Unsigned integers in the order of the numbers.

    Parameters
    ----------
    values : float32 or float64 array
        Without NaN. -0.0 counts as 0.0.

    Returns
    -------
    uint32 or uint64 array of the same shape

    Examples
    --------
    >>> ordered_bits(np.float32([-np.inf, -1, -0.0, 0, 1])).argsort(kind="stable").tolist()
    [0, 1, 2, 3, 4]
    """
    values = np.ascontiguousarray(values)
    kind = np.dtype(f"u{values.dtype.itemsize}")
    bits = (values + values.dtype.type(0)).view(kind)  # -0.0 + 0.0 is 0.0
    sign = kind.type(1 << (8 * kind.itemsize - 1))
    return cast("Words", np.where(bits & sign, ~bits, bits | sign))


def from_ordered_bits(bits: Words) -> npt.NDArray[np.floating[Any]]:
    """Numbers that `ordered_bits` turned into integers.

    Examples
    --------
    >>> from_ordered_bits(ordered_bits(np.float64([-2.5, 7]))).tolist()
    [-2.5, 7.0]
    """
    bits = np.ascontiguousarray(bits)
    sign = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    raw = np.where(bits & sign, bits ^ sign, ~bits)
    return cast("npt.NDArray[np.floating[Any]]", raw.view(f"f{bits.dtype.itemsize}"))


Sparse = tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32]]


def sparse(counts: Counts) -> Sparse:
    """Counts that are not zero, and their places: what a worker sends."""
    places = np.flatnonzero(counts)
    return places.astype(np.uint16), counts[places].astype(np.uint32)


class Tally:
    """A sum of sparse counts of one digit.

    Examples
    --------
    >>> tally = Tally()
    >>> for part in (np.array([0, 2, 1]), np.array([0, 0, 4])):
    ...     tally.add(sparse(part))
    >>> tally.counts[:4].tolist()
    [0, 2, 5, 0]
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(1 << DIGIT_BITS, np.int64)

    def add(self, part: Sparse) -> None:
        """Add the counts of one more part."""
        self.counts[part[0]] += part[1]


@dataclass(frozen=True)
class Bracket:
    """What is known of the key of one rank: its first bits, and how many keys share them.

    A key is one word or several, the first the most significant.

    Parameters
    ----------
    bits : tuple of int
        Bits of each word.
    rank : int
        Rank among the keys of this bracket, from 0 for the smallest.
    size : int
        Keys in this bracket.
    prefix : int
        The bits known of word `word`, as a number; the words before it are in `known_words`.
    known : int
        How many bits `prefix` has.
    known_words : tuple of int
        Words that are known wholly.

    Examples
    --------
    >>> keys = np.array([7, 1, 900, 7], np.uint64)
    >>> bracket = Bracket(bits=(64,), rank=2, size=4)
    >>> while not bracket.exact:
    ...     bracket = bracket.narrowed(bracket.counts([keys]))
    >>> bracket.known_words, bracket.size  # the key of rank 2 is a 7, of which there are two
    ((7,), 2)
    """

    bits: tuple[int, ...]
    rank: int
    size: int
    prefix: int = 0
    known: int = 0
    known_words: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"a rank must be from 0 to {self.size - 1}: got {self.rank}")

    @property
    def exact(self) -> bool:
        """Whether all words are known; all keys of the bracket are equal then."""
        return len(self.known_words) == len(self.bits)

    @property
    def word(self) -> int:
        """The first word that is not known wholly."""
        return len(self.known_words)

    def holds(self, words: Sequence[Words]) -> npt.NDArray[np.bool_]:
        """Which keys are in this bracket; `words` beyond `word` may be missing."""
        inside = np.ones(np.shape(words[0]), dtype=bool)
        for known, word in zip(self.known_words, words, strict=False):
            inside &= word == word.dtype.type(known)
        if self.known:
            word = words[self.word]
            shift = word.dtype.type(self.bits[self.word] - self.known)
            inside &= (word >> shift) == word.dtype.type(self.prefix)
        return inside

    def counts(self, words: Sequence[Words]) -> Counts:
        """Count the next digit of the keys in this bracket; shape (2 ** digit bits,)."""
        word = words[self.word]
        if self.known or self.known_words:
            word = word[self.holds(words)]
        width = self._width
        shift = word.dtype.type(self.bits[self.word] - self.known - width)
        digits = (word >> shift) & word.dtype.type((1 << width) - 1)
        return np.bincount(digits.ravel().astype(np.intp), minlength=1 << width)

    def narrowed(self, counts: Counts) -> Bracket:
        """The bracket of one more digit, from the sum of the `counts` of all parts."""
        below = np.cumsum(counts)
        digit = int(np.searchsorted(below, self.rank, side="right"))
        before = int(below[digit - 1]) if digit else 0
        known = self.known + self._width
        prefix = self.prefix << self._width | digit
        inside = replace(self, rank=self.rank - before, size=int(counts[digit]))
        if known == self.bits[self.word]:
            words = (*self.known_words, prefix)
            return replace(inside, prefix=0, known=0, known_words=words)
        return replace(inside, prefix=prefix, known=known)

    @property
    def _width(self) -> int:
        return min(DIGIT_BITS, self.bits[self.word] - self.known)
