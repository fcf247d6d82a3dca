"""Jumps in somebody else's training script, unchanged.

The script runs in this process as ``__main__``. Torch calls global hooks around every optimizer
step; at the first one the script's model is found among the live objects, and its jumps begin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from weightcast.apply.events import JumpEvent, JumpSummary
from weightcast.apply.plan import JumpPlan
from weightcast.apply.script_outcome import ScriptOutcome, script_recorder
from weightcast.apply.scripted import ScriptJumps
from weightcast.predictor import Forecaster
from weightcast.recorder.distributed import writes_here
from weightcast.recorder.running import exit_code, script_runner, terminated_as_exit

RunOutcome: TypeAlias = ScriptOutcome[JumpSummary, JumpEvent]


def run_script(
    argv: Sequence[str],
    forecaster: Forecaster,
    plan: JumpPlan,
    *,
    record: str | Path | None = None,
    recording: dict[str, Any] | None = None,
    starting: Callable[[], object] | None = None,
    **options: Any,
) -> RunOutcome:
    """Run a training script, and let the model of its first optimizer jump.

    Parameters
    ----------
    argv : sequence of str
        The script and its arguments, or ``-m``, a module and its arguments.
    forecaster : Forecaster
        Fitted, or one that needs no training.
    plan : JumpPlan
    record : str or Path, optional
        Folder of a history to record at the same time. At a jump point it has the weights after
        the jump, and after a roll-back those that training went on from.
    recording : dict, optional
        Options of `Recorder` for it, such as ``schedule``, ``preset`` or ``overwrite``.
    starting : callable, optional
        Called when all that can be refused before the script runs has passed.
    **options
        Of `ScriptJumps`.

    Returns
    -------
    RunOutcome

    Raises
    ------
    InputNotFoundError
        If there is no such script.
    WeightcastError
        If something cannot be as it is asked for, before the script runs; or if jumps or the
        recording fail, which stops the script.

    Notes
    -----
    Steps are counted from 0 at the script's first optimizer step, also of a script that goes on
    from a checkpoint: what jumps need of the past is not in it.
    """
    run = script_runner(argv)
    recorder = script_recorder(record, recording)
    jumps = ScriptJumps(forecaster, plan, recording=recorder, **options)
    with terminated_as_exit(), jumps.installed():
        if starting is not None:
            starting()
        code, failure = exit_code(run)
    return RunOutcome(
        code,
        failure,
        jumps.summary,
        tuple(jumps.live.events) if jumps.live is not None else (),
        recorder.summary() if recorder is not None else None,
        jumps.others,
        tuple(jumps.other_models),
        not writes_here(),
    )
