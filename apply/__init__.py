"""Using forecasts: jumps in live runs and on checkpoints."""

from weightcast.apply.checkpoint import JumpReport, jump_checkpoint
from weightcast.apply.jumper import Jumper
from weightcast.apply.jumping import jump

__all__ = ["JumpReport", "Jumper", "jump", "jump_checkpoint"]
