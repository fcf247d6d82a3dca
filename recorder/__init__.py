"""Recording: steps and schedules, which parameters, the recorder, and running a script."""

from weightcast.recorder.recording import Recorder, RecordingSummary
from weightcast.recorder.schedule import (
    Dense,
    Every,
    Jump,
    Log,
    Schedule,
    Steps,
    Union,
    parse_schedule,
)
from weightcast.recorder.script import Outcome, ScriptRecorder, record_script
from weightcast.recorder.selection import Selection, find_model, select, unwrap

__all__ = [
    "Dense",
    "Every",
    "Jump",
    "Log",
    "Outcome",
    "Recorder",
    "RecordingSummary",
    "Schedule",
    "ScriptRecorder",
    "Selection",
    "Steps",
    "Union",
    "find_model",
    "parse_schedule",
    "record_script",
    "select",
    "unwrap",
]
