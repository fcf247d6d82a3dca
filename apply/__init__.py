"""Using forecasts: jumps in live runs and on checkpoints."""

from weightcast.apply.checkpoint import JumpReport, jump_checkpoint
from weightcast.apply.events import JumpEvent, JumpSummary
from weightcast.apply.guard import Guard
from weightcast.apply.jumper import Jumper
from weightcast.apply.jumping import jump
from weightcast.apply.live import LiveJumps
from weightcast.apply.masking import Held, hold
from weightcast.apply.perturbing import PerturbReport, perturb
from weightcast.apply.placing import Placement
from weightcast.apply.plan import JumpPlan, parse_jump_points, plan_jumps
from weightcast.apply.pruning import density, prune, random_mask, save_mask
from weightcast.apply.putting import RewindReport
from weightcast.apply.reach import Reach
from weightcast.apply.rewinding import load_mask, rewind, rewind_checkpoint
from weightcast.apply.script import RunOutcome, run_script
from weightcast.apply.skip_events import SkipEvent, SkipSummary
from weightcast.apply.skip_rule import SkipRule
from weightcast.apply.skip_script import SkipOutcome, skip_script
from weightcast.apply.skip_values import MeanLoss, PrintedMetric
from weightcast.apply.skipper import UpdateSkipper
from weightcast.apply.verdict import Verdict, judge

__all__ = [
    "Guard",
    "Held",
    "JumpEvent",
    "JumpPlan",
    "JumpReport",
    "JumpSummary",
    "Jumper",
    "LiveJumps",
    "MeanLoss",
    "PerturbReport",
    "Placement",
    "PrintedMetric",
    "Reach",
    "RewindReport",
    "RunOutcome",
    "SkipEvent",
    "SkipOutcome",
    "SkipRule",
    "SkipSummary",
    "UpdateSkipper",
    "Verdict",
    "density",
    "hold",
    "judge",
    "jump",
    "jump_checkpoint",
    "load_mask",
    "parse_jump_points",
    "perturb",
    "plan_jumps",
    "prune",
    "random_mask",
    "rewind",
    "rewind_checkpoint",
    "run_script",
    "save_mask",
    "skip_script",
]
