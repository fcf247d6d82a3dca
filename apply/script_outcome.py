"""How a script ended whose training was changed on the way: what jumps and skips have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from weightcast.recorder.recording import RecordingSummary
from weightcast.recorder.script import ScriptRecorder
from weightcast.store import UsageError

S = TypeVar("S")
E = TypeVar("E")


@dataclass(frozen=True)
class ScriptOutcome(Generic[S, E]):
    """How a script ended.

    Attributes
    ----------
    exit_code : int
        The script's own.
    failure : str
        Why the script ended early, on one line; empty if it ended by itself.
    summary : JumpSummary, SkipSummary or None
        None if no optimizer step was taken.
    events : tuple of JumpEvent, or of SkipEvent
        What was done, and why.
    recorded : RecordingSummary or None
        None if nothing was recorded, or by another process of a distributed run.
    others : int
        Steps that optimizers of other models took; these models are left alone.
    other_models : tuple of str
        What these models are called.
    elsewhere : bool
        Whether another process of a distributed run speaks for all.
    """

    exit_code: int
    failure: str
    summary: S | None
    events: tuple[E, ...] = ()
    recorded: RecordingSummary | None = None
    others: int = 0
    other_models: tuple[str, ...] = ()
    elsewhere: bool = False


def script_recorder(
    record: str | Path | None, recording: dict[str, Any] | None
) -> ScriptRecorder | None:
    """What records the script at the same time, if that is asked for.

    Raises
    ------
    UsageError
        If there are options of a recording, and no path.
    """
    if record is None and recording:
        raise UsageError(f"options of a recording need its path: got {', '.join(recording)}")
    return None if record is None else ScriptRecorder(record, **(recording or {}))
