"""The ``rewind`` command: a checkpoint with the weights of a recorded step."""

from __future__ import annotations

from typing import Any

import click

from weightcast.cli.console import echo, output_option, parameter_options


@click.command()
@click.option("--history", required=True, type=click.Path(), help="History of the run.")
@click.option("--step", required=True, type=click.IntRange(0, 2**62), help="Recorded step.")
@click.option("--checkpoint", type=click.Path(), help="Checkpoint to rewind.")
@click.option("--key", help="Where the checkpoint keeps the model's state_dict.")
@click.option(
    "--mask",
    type=click.Path(),
    metavar="FILE",
    help="Bool tensors by parameter name (.safetensors, or of torch.save): weights where they are "
    "False stay as they are.",
)
@click.option("--zero-pruned", is_flag=True, help="Set weights where the mask is False to 0.")
@click.option("--no-buffers", is_flag=True, help="Leave buffers, such as BatchNorm statistics.")
@parameter_options("Put back")
@output_option("Checkpoint to write.")
def rewind(
    history: str,
    step: int,
    checkpoint: str | None,
    mask: str | None,
    zero_pruned: bool,
    no_buffers: bool,
    output: str,
    **options: Any,
) -> None:
    """Put the weights of a recorded step back into a checkpoint.

    Everything else in the checkpoint, such as optimizer state, stays as it is. Checkpoints are
    files of torch.save (loaded with weights_only) or, by their suffix, safetensors. To write the
    recorded weights alone, without a checkpoint, use weightcast export.

    \b
    Example:
      weightcast rewind --history run.zarr --step 1000 --checkpoint in.pt -o out.pt
      weightcast rewind --history run.zarr --step 500 --checkpoint in.pt \\
          --mask mask.safetensors --zero-pruned -o out.pt
    """
    if zero_pruned and mask is None:
        raise click.UsageError("--zero-pruned is of what a mask prunes: name one with --mask")
    if checkpoint is None:
        raise click.UsageError(
            "name the checkpoint to rewind with --checkpoint; to write the recorded weights alone: "
            f"weightcast export {history} --step {step} -o {output}"
        )
    from weightcast.apply.rewinding import load_mask, rewind_checkpoint

    report = rewind_checkpoint(
        history,
        step,
        checkpoint,
        output,
        mask=None if mask is None else load_mask(mask),
        zero=zero_pruned,
        buffers=not no_buffers,
        **options,
    )
    buffers = f" and {report.buffers:,} buffers" if report.buffers else ""
    exact = f"within {report.error:g} of what was recorded" if report.error else "exact"
    echo(
        f"{report.weights:,} weights{buffers} are those of step {step} of {history}, {exact}; "
        f"the largest change is {report.changed:.4g}: {output}"
    )
    if report.masked:
        what = "are 0" if zero_pruned else "stay as they were"
        echo(f"{report.masked:,} {what} for the mask")
    if report.left:
        echo(f"{report.left} tensors that were not put back stay as they were")
    if report.rounding:
        echo(
            f"weightcast: warning: {checkpoint} has narrower dtypes than the history: weights were "
            f"rounded by up to {report.rounding:.3g}",
            err=True,
        )
