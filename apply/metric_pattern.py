"""A number in a line of a script's output: where it stands, and how it is written."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field

from weightcast.store import UsageError

VALUE = "value"  # the group that is meant, of several


@dataclass
class MetricPattern:
    r"""Finds a metric in lines of text.

    Parameters
    ----------
    regex : str
        Searched for in each line. The number is its one group, or the group named ``value``.

    Attributes
    ----------
    matched : int
        Lines that matched, with a number or without.
    unread : str
        What the group last had that is no number; empty if it always was one.

    Raises
    ------
    UsageError
        If `regex` is not a regular expression, or which group has the number is open.

    Examples
    --------
    >>> accuracy = MetricPattern(r"Accuracy: (\S+)")
    >>> accuracy.find("Test set: Average loss: 0.0512, Accuracy: 9830/10000 (98%)")
    0.983
    >>> accuracy.find("Train Epoch: 1")
    """

    regex: str
    matched: int = field(default=0, init=False)
    unread: str = field(default="", init=False)

    def __post_init__(self) -> None:
        try:
            self._compiled = re.compile(self.regex)
        except re.error as error:
            raise UsageError(
                f"a metric is found by a regular expression: got {self.regex!r}, {error}"
            ) from None
        groups = self._compiled.groups
        if VALUE not in self._compiled.groupindex and groups != 1:
            raise UsageError(
                "the regular expression of a metric has one group, which is the number, or a group "
                f"named value: {self.regex!r} has {groups or 'none'}: write such as "
                r"'Accuracy: (\S+)', and (?:...) for what is no number"
            )
        self._group: int | str = VALUE if VALUE in self._compiled.groupindex else 1

    def find(self, line: str) -> float | None:
        """The metric in a line; None where there is none."""
        match = self._compiled.search(line)
        text = None if match is None else match[self._group]
        if text is None:
            return None
        self.matched += 1
        number = parse_number(text)
        if number is None:
            self.unread = text
        return number


def parse_number(text: str) -> float | None:
    """Read a number, a fraction or a percentage; None if it is none of these.

    Examples
    --------
    >>> [parse_number(text) for text in ("0.98", "9830/10000", "98 %", "nan", "1/0", "high")]
    [0.98, 0.983, 0.98, nan, nan, None]
    """
    above, slash, below = text.strip().rstrip(",;.").partition("/")
    share = not slash and above.endswith("%")
    with contextlib.suppress(ValueError):
        number = float(above.removesuffix("%"))
        if slash:
            divisor = float(below)
            return number / divisor if divisor else float("nan")
        return number / 100 if share else number
    return None
