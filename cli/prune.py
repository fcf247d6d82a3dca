"""The ``prune`` command: a mask of the weights that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import (
    echo,
    echo_line,
    json_option,
    output_option,
    parameter_options,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@click.command()
@click.argument("source", type=click.Path())
@click.option(
    "--fraction",
    required=True,
    type=float,
    metavar="F",
    help="Share of the weights that remain that goes, such as 0.2.",
)
@click.option("--step", type=click.IntRange(0, 2**62), help="Recorded step; by default the last.")
@click.option("--key", help="Where a checkpoint keeps the model's state_dict.")
@click.option(
    "--mask", type=click.Path(), metavar="FILE", help="What earlier rounds left; goes on from it."
)
@click.option(
    "--scope",
    type=click.Choice(["global", "layer"]),
    default="global",
    show_default=True,
    help="Compare the weights of all tensors together, or of each alone.",
)
@parameter_options("Prune")
@output_option("Mask to write: .safetensors, bool tensors by parameter name.")
@json_option
def prune(
    source: str,
    fraction: float,
    mask: str | None,
    output: str,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Choose the weights of lowest magnitude to be pruned; the mask says which stay.

    SOURCE is a history, or a checkpoint (a file of torch.save or, by its suffix, safetensors). By
    default weights of two or more dimensions are pruned, but those of norm layers (which a
    checkpoint does not name: use --exclude). Nothing but the mask is written: weightcast rewind
    --mask FILE --zero-pruned makes a checkpoint of it.

    \b
    Example:
      weightcast prune run.zarr --fraction 0.2 -o mask1.safetensors
      weightcast prune trained.pt --fraction 0.2 --mask mask1.safetensors -o mask2.safetensors
    """
    from weightcast.apply import load_mask, save_mask
    from weightcast.apply import prune as choose
    from weightcast.store.output import refuse_existing

    inputs = [source] if mask is None else [source, mask]
    refuse_existing(output, overwrite=overwrite, kind="file", inputs=inputs)
    before = None if mask is None else load_mask(mask)
    pruned = choose(source, fraction, mask=before, **options)
    save_mask(pruned, output, overwrite)
    _show(pruned, output, as_json)


def _show(mask: Mapping[str, Tensor], output: str, as_json: bool) -> None:
    from weightcast.apply import density

    rows = [(name, t.numel(), int(t.sum())) for name, t in mask.items()]
    weights, remain = sum(row[1] for row in rows), sum(row[2] for row in rows)
    if as_json:
        tensors = [{"name": n, "weights": w, "remain": r, "share": r / w} for n, w, r in rows]
        whole = {"weights": weights, "remain": remain, "share": density(mask)}
        print_json({"mask": output, **whole, "tensors": tensors})
    else:
        cells = [(n, f"{w:,}", f"{r:,}", f"{r / w:.2%}") for n, w, r in rows]
        print_table(("tensor", "weights", "remain", "share"), cells)
        echo(f"{remain:,} of {weights:,} weights remain ({density(mask):.2%}): {output}")
    if empty := [name for name, _, r in rows if not r]:
        echo_line(f"warning: no weight remains of {', '.join(empty)}")
