"""The ``jump`` command: an offline jump on a checkpoint."""

from __future__ import annotations

import click

from weightcast.cli.console import output_option


@click.command()
@click.option("--history", required=True, type=click.Path(), help="History of the run.")
@click.option("--step", required=True, type=click.IntRange(0, 2**62), help="Jump point t.")
@click.option("--forecaster", required=True, type=click.Path(), help="Forecaster file.")
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
    """
    from weightcast.apply import jump_checkpoint
    from weightcast.predictor import load
    from weightcast.store import History

    report = jump_checkpoint(
        History(history),
        step,
        load(forecaster),
        checkpoint,
        output,
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
    click.echo(
        f"{report.weights:,} weights moved by {1000 * report.moved:.4g} x 1e-3 on average, from "
        f"steps {', '.join(map(str, report.context))} to the forecast for step {report.target}: "
        f"{output}"
    )
    if report.left:
        click.echo(f"{report.left} tensors that the history does not have stay as they were")
