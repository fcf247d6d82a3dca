"""Using forecasts: jumps in live runs and on checkpoints."""

from weightcast.apply.checkpoint import JumpReport, jump_checkpoint
from weightcast.apply.events import JumpEvent, JumpSummary
from weightcast.apply.guard import Guard
from weightcast.apply.jumper import Jumper
from weightcast.apply.jumping import jump
from weightcast.apply.live import LiveJumps
from weightcast.apply.placing import Placement
from weightcast.apply.plan import JumpPlan, parse_jump_points, plan_jumps
from weightcast.apply.putting import RewindReport
from weightcast.apply.reach import Reach
from weightcast.apply.rewinding import rewind, rewind_checkpoint
from weightcast.apply.script import RunOutcome, run_script
from weightcast.apply.verdict import Verdict, judge

__all__ = [
    "Guard",
    "JumpEvent",
    "JumpPlan",
    "JumpReport",
    "JumpSummary",
    "Jumper",
    "LiveJumps",
    "Placement",
    "Reach",
    "RewindReport",
    "RunOutcome",
    "Verdict",
    "judge",
    "jump",
    "jump_checkpoint",
    "parse_jump_points",
    "plan_jumps",
    "rewind",
    "rewind_checkpoint",
    "run_script",
]
