"""Arms of a user's own: forecasters that jump where an experiment's arm "jumps" does.

::

    --forecaster line              Arm("line", ..., "line")
    --forecaster mine.safetensors  Arm("mine", ..., "mine.safetensors sha256:9f86...")
                                   and a copy for the runs, RESULTS/forecasters/9f86....safetensors
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from weightcast.apply import plan_jumps
from weightcast.experiments.experiment import Experiment
from weightcast.experiments.forecasters import FITTED, copy_of, forecaster_for
from weightcast.experiments.results import file_name
from weightcast.predictor import Forecaster, load, untrusted_types
from weightcast.store import FormatError, UsageError
from weightcast.store.output import replacing

_NAMES = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,79}"


@dataclass(frozen=True)
class Own:
    """A forecaster that is given for experiments.

    Attributes
    ----------
    name : str
        Of its arm: the forecaster's name, or its file's without the suffix.
    forecaster : str
        As an arm has it: the name, or the file's name and sha256.
    content : bytes
        Of the file.
    loaded : Forecaster or None
        None of those that are fitted first.
    """

    name: str
    forecaster: str
    content: bytes = field(default=b"", repr=False)
    loaded: Forecaster | None = None

    @classmethod
    def given(cls, text: str) -> Own:
        """By a name that `experiments.forecasters` knows, or a file; a file wins over a name.

        Raises
        ------
        UsageError
            If its name cannot be an arm's.
        InputNotFoundError
            If there is no such file, and nothing of that name.
        FormatError
            If the file is damaged, not a forecaster's, or holds types that must be trusted.

        Examples
        --------
        >>> Own.given("linear-fit@1.5").name
        'linear-fit@1.5'
        """
        path = Path(text)
        if not text:
            raise UsageError("--forecaster needs a file or a name: got an empty text")
        if not path.is_file():
            return cls(text, text, loaded=None if text in FITTED else forecaster_for(text, ""))
        if path.suffix not in (".safetensors", ".skops"):
            raise UsageError(
                "a forecaster's file must end in .safetensors or .skops, as `weightcast fit` names "
                f"it: got {path.name!r}"
            )
        if not re.fullmatch(_NAMES, path.stem):
            raise UsageError(
                "the name of a forecaster's file must begin with a letter or digit, and have "
                f"letters, digits, '.', '-', '_', '+' and '@' only, 80 at most: got {path.name!r}"
            )
        if types := untrusted_types(path):
            raise FormatError(
                f"{path} holds types that are not trusted, {', '.join(types):.200}: if you trust "
                "who made it, load it in Python and run it as an Arm's forecaster"
            )
        loaded, content = load(path), path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return cls(path.stem, f"{path.name} sha256:{digest}", content, loaded)


def with_own(experiment: Experiment, given: Sequence[Own]) -> Experiment:
    """The experiment, with an arm for each forecaster, which jumps where its jumps are.

    Raises
    ------
    UsageError
        If it has no arm that jumps, or one of such a name already; or if a forecaster cannot
        jump at its points.

    Examples
    --------
    >>> from weightcast.experiments.catalogue import find
    >>> with_own(find("mnist2"), [Own.given("line")]).arms[-1]
    Arm(name='line', jumps=(2500, 3000), forecaster='line', schedule='own', guarded=False)
    """
    model = next((arm for arm in experiment.arms if arm.jumps and arm.schedule == "own"), None)
    if model is None:
        if given:
            raise UsageError(f"{experiment.name} has no arm that jumps: leave out --forecaster")
        return experiment
    arms = list(experiment.arms)
    known = ("averaging", *(arm.name for arm in arms))
    taken = {file_name(name, 0): name for name in known}
    for own in given:
        other = taken.get(file_name(own.name, 0))
        if other and other not in known:
            raise UsageError(f"two forecasters are named {other!r}: rename one of the files")
        if other:
            raise UsageError(
                f"{experiment.name} has an arm {other!r} already, so that a forecaster cannot be "
                f"named {own.name!r}: name its file otherwise, or leave it out"
            )
        taken[file_name(own.name, 0)] = own.name
        _refuse_points(experiment, model.jumps, own)
        arms.append(replace(model, name=own.name, forecaster=own.forecaster))
    return replace(experiment, arms=tuple(arms))


def keep(given: Iterable[Own], folder: Path) -> None:
    """Copy the files into a results folder, for the runs: theirs may change meanwhile."""
    for own in given:
        if own.content:
            target = copy_of(own.forecaster, folder)
            target.parent.mkdir(exist_ok=True)
            with replacing(target) as temporary:
                temporary.write_bytes(own.content)


def _refuse_points(experiment: Experiment, jumps: Sequence[int], own: Own) -> None:
    """A run would say so as well, after all its steps to there."""
    if own.loaded is not None:
        try:
            plan_jumps(own.loaded, jumps)
        except UsageError as error:
            hint = "" if experiment.budget == "paper" else " (--budget paper jumps later)"
            raise UsageError(
                f"{own.name} cannot jump in {experiment.folder}{hint}: {error}"
            ) from error
