"""Numbers as a document prints them, and Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from weightcast.experiments.summary import Spread

Show = Callable[[float], str]


def percent(share: float) -> str:
    """A share: two decimals, as 10,000 test images give them.

    Examples
    --------
    >>> percent(0.98765), percent(0.97475)
    ('98.77 %', '97.48 %')
    """
    return f"{_half_up(100 * share):.2f} %"


def count(number: float) -> str:
    """Steps, or "never".

    Examples
    --------
    >>> count(7200.0), count(math.inf)
    ('7,200', 'never')
    """
    return f"{number:,.0f}" if math.isfinite(number) else "never"


def change(gain: float) -> str:
    """Steps less, as a change in percent.

    Examples
    --------
    >>> change(0.3), change(-0.1), change(-math.inf)
    ('-30 %', '+10 %', 'never')
    """
    return f"{-100 * gain:+.0f} %".replace("-0 %", "+0 %") if math.isfinite(gain) else "never"


def points(gain: float) -> str:
    """A difference of accuracies.

    Examples
    --------
    >>> points(0.0123), points(-0.002), points(-0.00175), points(-1e-12)
    ('+1.23 points', '-0.20 points', '-0.18 points', '+0.00 points')
    """
    return f"{_half_up(100 * gain):+.2f} points".replace("-0.00", "+0.00")


def _half_up(number: float) -> float:
    """Before it is rounded: medians of accuracies often end in a 5, which binary floats miss."""
    return number + math.copysign(1e-9, number)


def decimals(number: float) -> str:
    """A loss, or seconds.

    Examples
    --------
    >>> decimals(0.01234), decimals(1234.5), decimals(math.inf)
    ('0.0123', '1,230', 'not finite')
    """
    if not math.isfinite(number):
        return "not finite"
    return f"{number:,.0f}" if number >= 10_000 else f"{float(f'{number:.3g}'):,g}"


def spread(numbers: Spread, show: Show, missed: str = "not reached") -> str:
    """Median and range over the seeds.

    Examples
    --------
    >>> spread(Spread({1: 700.0, 2: 800.0, 3: math.inf}), count)
    '800 (700..never, 2 of 3)'
    >>> spread(Spread({1: 700.0, 2: math.inf}), count), spread(Spread({1: 7.0}), count)
    ('reached by 1 of 2', '7')
    """
    if not numbers.by_seed:
        return ""
    seeds, middle = len(numbers.by_seed), numbers.median
    if middle is None:
        if seeds == 1:
            return missed
        if missed == "not finite":
            return f"{missed} ({seeds - numbers.reached} of {seeds})"
        return f"reached by {numbers.reached} of {seeds}"
    ends = (show(numbers.low), show(numbers.high))
    if ends[0] == ends[1]:
        return show(middle)
    each = f", {numbers.reached} of {seeds}" if numbers.reached < seeds else ""
    low, high = (end.removesuffix(" %").removesuffix(" points") for end in ends)
    return f"{show(middle)} ({low}..{high}{each})"


def listed(words: Iterable[object], last: str = "and") -> str:
    """Words in a row.

    Examples
    --------
    >>> listed([1, 2, 3]), listed(["one"])
    ('1, 2 and 3', 'one')
    """
    *most, end = map(str, words)
    return f"{', '.join(most)} {last} {end}" if most else end


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown.

    Examples
    --------
    >>> print(table(["arm", "steps"], [["plain", "10"]]))
    | arm | steps |
    |---|---|
    | plain | 10 |
    """
    lines = [columns, *rows]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(columns), *text[1:]])
