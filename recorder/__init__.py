"""Recording: steps and schedules, which parameters, the recorder, and running a script."""

from weightcast.recorder.exporting import ExportReport, export, state_dict
from weightcast.recorder.finding import find_model
from weightcast.recorder.import_plan import ImportPlan, plan_import
from weightcast.recorder.importing import import_checkpoints
from weightcast.recorder.recording import Recorder, RecordingSummary
from weightcast.recorder.schedule import (
    Dense,
    Every,
    Geometric,
    Jump,
    Log,
    Schedule,
    Steps,
    Union,
    parse_schedule,
)
from weightcast.recorder.script import Outcome, ScriptRecorder, record_script
from weightcast.recorder.selection import Selection, select, unwrap

__all__ = [
    "Dense",
    "Every",
    "ExportReport",
    "Geometric",
    "ImportPlan",
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
    "export",
    "find_model",
    "import_checkpoints",
    "parse_schedule",
    "plan_import",
    "record_script",
    "select",
    "state_dict",
    "unwrap",
]
