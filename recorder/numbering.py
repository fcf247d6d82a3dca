"""Which step a checkpoint is of: by its name, or by what it says in itself.

::

    model_1000.pt              1000     the last whole number
    epoch=3-step=4000.ckpt     4000     the one after "step"
    epoch=3-val_loss=0.25.ckpt    3     0.25 is no whole number, nor is the 10 of 10k
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from weightcast.store import UsageError

_COUNTS = ("step", "global_step", "iteration", "iter", "epoch")
_LARGEST_STEP = 2**62
# neither part of 0.25 or 1e5, nor the 10 of 10k
_WHOLE = re.compile(
    r"(?<![0-9])(?<![0-9][.eE])[0-9]+(?![0-9]|\.[0-9]|[eE][0-9]|[kKmMbB](?![A-Za-z]))"
)


def steps_by_name(
    names: Sequence[str], labels: Sequence[str], pattern: str | None, steps_per_epoch: int | None
) -> list[int]:
    """Steps of checkpoints by their names.

    Parameters
    ----------
    names : sequence of str
        Of the files without their suffix, or of the folders: for `number_in_name`.
    labels : sequence of str
        What the checkpoints are called in messages: for the pattern.
    pattern : str, optional
        A regular expression with one group.
    steps_per_epoch : int, optional
        The numbers count epochs: multiply them.

    Raises
    ------
    UsageError
        If one has no number, or two have the same.

    Examples
    --------
    >>> steps_by_name(["epoch=2-step=40", "epoch=1-step=20"], ["b", "a"], None, None)
    [40, 20]
    """
    compiled = None if pattern is None else compile_pattern(pattern)
    word = "epoch" if steps_per_epoch else "step"
    numbers = []
    for name, label in zip(names, labels, strict=True):
        number = number_by_pattern(compiled, label) if compiled else number_in_name(name, word)
        if number is None:
            how = f"where {pattern!r} finds it" if pattern else "as a whole number"
            raise UsageError(
                f"a checkpoint's name must say its step, {how}: {label} does not: give "
                "--step-pattern, or --step-from metadata, or name the files to import"
            )
        numbers.append(number)
    return _require_distinct(numbers, labels, steps_per_epoch)


def steps_by_count(
    counts: Sequence[Mapping[str, int]], labels: Sequence[str], steps_per_epoch: int | None
) -> tuple[list[int], str]:
    """Steps of checkpoints by what they say in themselves, and what they call it.

    Parameters
    ----------
    counts : sequence of dict of str to int
        Of `counts_in`, for each checkpoint: the first count that all of them have is taken.
    labels, steps_per_epoch
        As for `steps_by_name`.

    Raises
    ------
    UsageError
        If they have no count in common, or two have the same.

    Examples
    --------
    >>> steps_by_count([{"step": 5}, {"step": 7, "epoch": 1}], ["a", "b"], None)
    ([5, 7], 'step')
    """
    wanted = ("epoch",) if steps_per_epoch else _COUNTS
    common = [name for name in wanted if all(name in c for c in counts)]
    if not common:
        bare = [label for label, c in zip(labels, counts, strict=True) if not set(wanted) & set(c)]
        what = f"{bare[0]} has none" if bare else "there is none that all of them have"
        raise UsageError(
            f"checkpoints must say their step in themselves, as {', '.join(wanted)}: {what}: take "
            "their names (--step-from name, --step-pattern)"
        )
    numbers = [c[common[0]] for c in counts]
    return _require_distinct(numbers, labels, steps_per_epoch), common[0]


def _require_distinct(
    numbers: Sequence[int], labels: Sequence[str], steps_per_epoch: int | None
) -> list[int]:
    steps = [number * (steps_per_epoch or 1) for number in numbers]
    seen: dict[int, str] = {}
    for step, label in zip(steps, labels, strict=True):
        if step > _LARGEST_STEP:
            raise UsageError(f"a step must be at most 2**62: {label} has {step}")
        if step in seen:
            raise UsageError(
                f"every checkpoint must have a step of its own: {seen[step]} and {label} are both "
                f"of step {step}: name the files to import, or give --step-pattern"
            )
        seen[step] = label
    return steps


def counts_epochs(name: str) -> bool:
    """Whether the number that `number_in_name` finds is one of epochs.

    Examples
    --------
    >>> counts_epochs("epoch=3"), counts_epochs("epoch=3-step=4000")
    (True, False)
    """
    number = number_in_name(name)
    return number is not None and number == number_after("epoch", name)


def number_after(word: str, name: str) -> int | None:
    """The whole number that follows the last such word in a name.

    Examples
    --------
    >>> number_after("step", "epoch=3-step=4000"), number_after("step", "epoch=3-step=4k")
    (4000, None)
    """
    places = list(re.finditer(rf"{word}s?[ =_.-]?(?=[0-9])", name, re.IGNORECASE))
    number = _WHOLE.match(name, places[-1].end()) if places else None
    return int(number[0]) if number else None


def number_in_name(name: str, word: str = "step") -> int | None:
    """The number that a checkpoint's name has: after a word, or else the last whole one.

    Parameters
    ----------
    name : str
        Of the file without its suffix, or of the folder.
    word : {"step", "epoch"}

    Returns
    -------
    int or None
        None if there is none, or not a whole one after the word.

    Examples
    --------
    >>> number_in_name("checkpoint-500"), number_in_name("epoch=3-step=4000-v1")
    (500, 4000)
    >>> number_in_name("epoch=3-val_loss=0.25"), number_in_name("model-10k")
    (3, None)
    """
    if re.search(rf"{word}s?[ =_.-]?[0-9]", name, re.IGNORECASE):
        return number_after(word, name)
    numbers = _WHOLE.findall(name)
    return int(numbers[-1]) if numbers else None


def compile_pattern(text: str) -> re.Pattern[str]:
    """A regular expression with one group, which is a number.

    Raises
    ------
    UsageError
        If it is not one.
    """
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"the step pattern must be a regular expression: {error}") from error
    if pattern.groups != 1:
        raise UsageError(
            f"the step pattern must have one group, such as 'step_([0-9]+)': got {text!r}"
        )
    return pattern


def number_by_pattern(pattern: re.Pattern[str], name: str) -> int | None:
    """The number that a pattern's group finds in a name, if it does.

    Examples
    --------
    >>> number_by_pattern(compile_pattern("b([0-9]+)"), "a1-b22-c3")
    22
    """
    match = pattern.search(name)
    return whole(match[1]) if match else None


def counts_in(document: Mapping[Any, Any]) -> dict[str, int]:
    """What a checkpoint says of how far it is: its ``step``, ``epoch`` and the like.

    Examples
    --------
    >>> counts_in({"epoch": 2, "global_step": torch.tensor(500), "step": "later"})
    {'global_step': 500, 'epoch': 2}
    """
    numbers = {name: whole(document.get(name)) for name in _COUNTS}
    return {name: number for name, number in numbers.items() if number is not None}


def whole(value: object) -> int | None:
    """A whole number from 0 on, of a number, a text or a tensor of one; else None."""
    if isinstance(value, torch.Tensor):
        plain = value.layout == torch.strided and not (value.is_meta or value.is_quantized)
        value = value.item() if plain and value.numel() == 1 else None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,30}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return None
    return value
