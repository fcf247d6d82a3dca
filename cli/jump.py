"""The ``jump`` command: an offline jump on a checkpoint."""

from __future__ import annotations

import click

from weightcast.cli.console import output_option, trust_option

MOST_NAMED = 5  # steps of a context that are listed one by one


@click.command()
@click.option("--history", required=True, type=click.Path(), help="History of the run.")
@click.option("--step", required=True, type=click.IntRange(0, 2**62), help="Jump point t.")
@click.option(
    "--forecaster",
    required=True,
    type=click.Path(),
    metavar="FILE_OR_NAME",
    help="Forecaster file, or the name of one that comes with weightcast, such as line.",
)
@click.option(
    "--horizon",
    metavar="RATIO|+STEPS",
    help="How far to jump: 2 for the weights at 2t, +500 for 500 steps ahead; by default the "
    "forecaster's own horizon.",
)
@trust_option
@click.option("--checkpoint", required=True, type=click.Path(), help="Checkpoint at step t.")
@click.option("--key", help="Where the checkpoint keeps the model's state_dict.")
@click.option(
    "--any-checkpoint",
    is_flag=True,
    help="Jump also if the checkpoint's weights are not those of step t in the history.",
)
@output_option("Checkpoint to write.")
def jump(
    history: str,
    step: int,
    forecaster: str,
    horizon: str | None,
    trust: tuple[str, ...],
    checkpoint: str,
    key: str | None,
    any_checkpoint: bool,
    output: str,
    overwrite: bool,
) -> None:
    """Replace a checkpoint's weights by their forecast.

    Everything else in the checkpoint stays as it is. Checkpoints are files of torch.save (loaded
    with weights_only) or, by their suffix, safetensors.

    \b
    Example:
      weightcast jump --history run.zarr --step 3000 --forecaster introspection.safetensors \\
          --checkpoint in.pt -o out.pt
      weightcast jump --history run.zarr --step 3000 --forecaster line --horizon +500 \\
          --checkpoint in.pt -o out.pt
    """
    from weightcast.apply import jump_checkpoint
    from weightcast.predictor import load
    from weightcast.store import History
    from weightcast.store.horizon import parse_horizon

    report = jump_checkpoint(
        History(history),
        step,
        load(forecaster, trusted=trust),
        checkpoint,
        output,
        horizon=None if horizon is None else parse_horizon(horizon),
        key=key,
        exact=not any_checkpoint,
        overwrite=overwrite,
    )
    if report.drift:
        click.echo(
            f"weightcast: warning: {checkpoint} is not the history's step {step}: weights differ "
            f"by up to {report.drift:.3g}",
            err=True,
        )
    steps = report.context
    if len(steps) > MOST_NAMED:
        seen = f"{len(steps)} steps between {steps[-1]} and {steps[0]}"
    else:
        seen = f"steps {', '.join(map(str, steps))}"
    click.echo(
        f"{report.weights:,} weights moved by {1000 * report.moved:.4g} x 1e-3 on average, from "
        f"{seen} to the forecast for step {report.target}: {output}"
    )
    if report.left:
        click.echo(f"{report.left} tensors that the history does not have stay as they were")
