"""What an import of checkpoints will write, found out before anything is written.

::

    paths --find_checkpoints--> files --by name or by count--> steps --sort--> in order
                                files --look_into-->  names, shapes, dtypes: one table for all
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weightcast.recorder.contents import Contents, lay_out, look_into, require_same
from weightcast.recorder.folders import Found, find_checkpoints
from weightcast.recorder.numbering import counts_epochs, steps_by_count, steps_by_name
from weightcast.store import ParameterTable, UsageError

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """A checkpoint that becomes a step of a history.

    Attributes
    ----------
    path : Path
        The file to load.
    label : str
        What it is called in messages.
    step : int
    time : float
        Seconds after the first one; 0 unless asked for.
    """

    path: Path
    label: str
    step: int
    time: float = 0.0


@dataclass(frozen=True)
class ImportPlan:
    """What `import_checkpoints` will do, as plain data.

    Attributes
    ----------
    sources : tuple of Source
        In order of their steps.
    parameters, buffers : ParameterTable
        Of the history.
    ties : dict of str to str
        Names of tensors that are the same as an earlier one, under whose name they are stored.
    notes : tuple of str
        What a user should know before it is done.
    key : str or None
        Where the checkpoints keep the model's ``state_dict``.
    """

    sources: tuple[Source, ...]
    parameters: ParameterTable
    buffers: ParameterTable
    ties: dict[str, str]
    notes: tuple[str, ...] = ()
    key: str | None = None

    @property
    def steps(self) -> list[int]:
        """Steps of the history, rising."""
        return [source.step for source in self.sources]


def plan_import(
    paths: Sequence[str | Path],
    *,
    step_from: str = "name",
    step_pattern: str | None = None,
    steps_per_epoch: int | None = None,
    key: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    buffers: Sequence[str] = (),
    times: bool = False,
    progress: Progress | None = None,
) -> ImportPlan:
    """Find checkpoints, their steps and what they hold, and check that they make one history.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders; see `find_checkpoints`.
    step_from : {"name", "metadata"}
        Number a checkpoint by its name, as `number_in_name` says, or by what all of them hold of
        ``step``, ``global_step``, ``iteration``, ``iter`` and ``epoch``, the first of these.
    step_pattern : str, optional
        A regular expression with one group: finds the number in the path as it was given.
    steps_per_epoch : int, optional
        The numbers count epochs: multiply them.
    key : str, optional
        Where the checkpoints keep the model's ``state_dict``; see `find_state_dict`.
    include, exclude : sequence of str
        Globs over the tensors' names.
    buffers : sequence of str
        Globs of names that are buffers, beside those that `lay_out` takes for such.
    times : bool
        Take the files' times of change as the times of the steps.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    ImportPlan

    Raises
    ------
    InputNotFoundError
        If there are no checkpoints.
    UsageError
        If a step cannot be told, or two checkpoints have the same.
    FormatError
        If a file is no checkpoint that loads with ``weights_only=True``.
    ShapeError
        If names or shapes differ from one to the next.

    Examples
    --------
    >>> import tempfile, torch
    >>> folder = Path(tempfile.mkdtemp())
    >>> for step in (0, 20, 100):
    ...     torch.save({"w": torch.full((2,), float(step))}, folder / f"model_{step}.pt")
    >>> plan_import([folder]).steps
    [0, 20, 100]
    """
    _check(paths, step_from, step_pattern, steps_per_epoch)
    found, left = find_checkpoints(paths)
    labels, counter, steps = [f.label for f in found], "", []
    if step_from == "name":  # the steps are known before any file is read
        names = [f.name for f in found]
        steps = steps_by_name(names, labels, step_pattern, steps_per_epoch)
    contents = []
    for done, checkpoint in enumerate(found, 1):
        contents.append(look_into(checkpoint, key, include, exclude))
        if progress:
            progress("reading checkpoints", done, len(found))
    if step_from == "metadata":
        counts = [c.counts for c in contents]
        steps, counter = steps_by_count(counts, labels, steps_per_epoch)
    order = sorted(range(len(found)), key=steps.__getitem__)
    found, contents = [found[i] for i in order], [contents[i] for i in order]
    plan = _planned(found, sorted(steps), contents, buffers, times, key)
    notes = [*_on_steps(plan, counter), *_on_tensors(plan, contents)]
    by_epoch = counter == "epoch" or (not counter and all(counts_epochs(f.name) for f in found))
    if by_epoch and steps_per_epoch is None and step_pattern is None:
        notes.append("the numbers count epochs: give --steps-per-epoch to have optimizer steps")
    if left:
        notes.append(f"left out, beside folders that are checkpoints: {', '.join(left)}")
    return replace(plan, notes=tuple(notes))


def _check(
    paths: object, step_from: str, step_pattern: str | None, steps_per_epoch: int | None
) -> None:
    if isinstance(paths, (str, Path)):
        raise UsageError(f"give a list of files and folders: got {str(paths)!r}")
    if step_from not in ("name", "metadata"):
        raise UsageError(f"steps come from the name or the metadata: got {step_from!r}")
    if step_pattern is not None and step_from != "name":
        raise UsageError("a step pattern finds the step in a name: it does not go with metadata")
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise UsageError(f"steps per epoch must be at least 1: got {steps_per_epoch}")


def _planned(
    found: Sequence[Found],
    steps: Sequence[int],
    contents: Sequence[Contents],
    buffers: Sequence[str],
    times: bool,
    key: str | None,
) -> ImportPlan:
    require_same(contents, [f.label for f in found])
    in_all = set.intersection(*(set(c.ties.items()) for c in contents))
    tied = {name: first for name, first in contents[0].ties.items() if (name, first) in in_all}
    seconds = _seconds(found) if times else [0.0] * len(found)
    rows = zip(found, steps, seconds, strict=True)
    sources = [Source(f.path, f.label, step, second) for f, step, second in rows]
    return ImportPlan(tuple(sources), *lay_out(contents, tied, buffers), tied, key=key)


def _seconds(found: Sequence[Found]) -> list[float]:
    changed = [f.path.stat().st_mtime for f in found]
    return [t - changed[0] for t in changed]


def _on_steps(plan: ImportPlan, counter: str) -> list[str]:
    notes = []
    if plan.steps[0] != 0:
        notes.append(
            f"there is no step 0, the weights before training, the first is {plan.steps[0]}: "
            "`dataset build` and `jump` look back at it by default; import it too, or give "
            "`dataset build --context 1,0.7,0.4`"
        )
    if counter:
        notes.append(f"steps are what the checkpoints call {counter!r}")
    if any(a.time > b.time for a, b in itertools.pairwise(plan.sources)):
        notes.append("the files' times do not rise with their steps: were they copied?")
    return notes


def _on_tensors(plan: ImportPlan, contents: Sequence[Contents]) -> list[str]:
    notes = [
        f"names are kept without the {prefix!r} of a wrapped model"
        for prefix in dict.fromkeys(c.prefix for c in contents)
        if prefix
    ]
    notes += [
        f"{name!r} is tied to {first!r}: stored once, exported under both names"
        for name, first in plan.ties.items()
    ]
    widened = {
        p.name: p.dtype
        for table in (plan.parameters, plan.buffers)
        for p in table
        if len({c.tensors[p.name][1] for c in contents}) > 1
    }
    if widened:
        name = next(iter(widened))
        notes.append(
            f"dtypes differ between checkpoints, each tensor keeps the widest: {len(widened)} do, "
            f"such as {name!r}, kept as {widened[name]}"
        )
    return notes
