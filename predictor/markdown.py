"""Text that is not trusted, as part of a Markdown document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MOST_CELL = 300
# Marks within a line; (), : and dots only where they would make a link or an emoji.
_MARKDOWN = re.compile(
    r"[\\`*_{}\[\]<>#|~&$@]|(?<=\])\(|:(?=//|[\w+-]+:)|(?<=www)\.", re.IGNORECASE
)


def escaped(text: object, most: int = _MOST_CELL) -> str:
    r"""Text for within a line: nothing of it is Markdown, or anything that a terminal would obey.

    Examples
    --------
    >>> print(escaped("a*b\n\x1b[31m"))
    a\*b \\x1b\[31m
    """
    words = " ".join(str(text)[: most + 1].split())
    words = words if len(words) <= most else words[: most - 3] + "..."
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    return _MARKDOWN.sub(r"\\\g<0>", shown)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; nothing in its cells is."""
    head, *rest = ("| " + " | ".join(map(escaped, cells)) + " |" for cells in (columns, *rows))
    return "\n".join([head, "|" + "---|" * len(columns), *rest]) + "\n"
