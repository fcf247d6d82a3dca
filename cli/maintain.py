"""Commands that keep histories whole and small: ``verify`` and ``compact``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import json_option, megabytes, print_table, progress

if TYPE_CHECKING:
    from weightcast.store import CompactionPlan, Difference, History, Verification


@click.command()
@click.argument("path", type=click.Path())
@click.option(
    "--against",
    type=click.Path(),
    metavar="ORIGINAL",
    help="Compare every value with this history, of which PATH is a copy or a part.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Chunks to read at a time.")
@json_option
def verify(path: str, against: str | None, workers: int | None, as_json: bool) -> None:
    """Read every chunk of a history, and say which are damaged or missing.

    The exit code is 0 if all is well and 1 if not.

    \b
    Example:
      weightcast verify run.zarr
      weightcast verify small.zarr --against run.zarr
    """
    import dataclasses
    import json

    from weightcast.store import FormatError, History, compare
    from weightcast.store import verify as verify_history

    with progress() as advance:
        found = verify_history(path, workers=workers, progress=advance)
        differences: list[Difference] = []
        if against is not None and found.ok:
            bound = found.error or 0.0
            pair = (History(path), History(against))
            differences = compare(*pair, bound=bound, progress=advance)
    if as_json:
        facts = dataclasses.asdict(found) | {
            "ok": found.ok and all(d.ok for d in differences),
            "differences": [dataclasses.asdict(d) | {"ok": d.ok} for d in differences],
        }
        click.echo(json.dumps(_finite(facts), indent=2))
    else:
        _show(found)
        if differences:
            _show_differences(differences, against)
    if found.waiting:
        raise FormatError(f"{path} lacks steps that wait in its ring file: run weightcast recover")
    if found.damage:
        arrays = sorted({d.array for d in found.damage})
        raise FormatError(
            f"{path} is damaged: {len(found.damage)} chunks or arrays, in {', '.join(arrays)}; "
            "what is lost with each is listed above"
        )
    wrong = [d.array for d in differences if not d.ok]
    if wrong:
        raise FormatError(f"{path} is not as exact a copy of {against} as it says: {wrong[0]}")


def _finite(value: Any) -> Any:
    """The same facts with null for infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and value == float("inf") else value


def _show(found: Verification) -> None:
    if found.damage:
        rows = [
            (d.array, d.chunk or "all", d.why, _names(d.parameters), _span(d.steps))
            for d in found.damage
        ]
        print_table(("damaged array", "chunk", "why", "parameters", "steps"), rows)
    state = "all is well" if found.ok else "DAMAGED" if found.damage else "INCOMPLETE"
    click.echo(
        f"{found.path}: {state}; {found.chunks:,} chunks read, {megabytes(found.bytes)} of "
        f"numbers, {found.committed:,} steps, {found.preset}"
        + (f", weights within {found.error:.3g}" if found.error else "")
    )
    for name, count in found.nan_steps.items():
        if count:
            click.echo(f"note: {name} is NaN altogether at {count:,} steps")
    if found.waiting:
        click.echo(f"note: recorded steps wait in {found.path}.ring, and could not be added")
    if found.unchecked:
        click.echo(f"note: without checksums: {', '.join(found.unchecked)}")
    if found.leftovers:
        click.echo(
            f"note: {found.leftovers:,} files, {megabytes(found.leftover_bytes)}, hold nothing "
            "that was committed: an append that was interrupted left them"
        )


def _names(names: tuple[str, ...]) -> str:
    return f"{names[0]} to {names[-1]}" if len(names) > 1 else "".join(names)


def _span(steps: tuple[int, int] | None) -> str:
    return f"{steps[0]} to {steps[1]}" if steps else ""


def _show_differences(differences: list[Difference], original: str | None) -> None:
    rows = [
        (
            d.array,
            f"{d.values:,}",
            f"{d.different:,}",
            f"{d.largest:.3g}",
            f"{d.bound:.3g}",
            "yes" if d.ok else "NO",
        )
        for d in differences
    ]
    columns = ("array", "values", "other bits", "largest error", "allowed", "ok")
    print_table(columns, rows, f"Against {original}")


@click.command()
@click.argument("path", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Folder of the copy.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--in-place", is_flag=True, help="Put the copy in the place of the original.")
@click.option("--delete-original", is_flag=True, help="Delete the original in the end.")
@click.option(
    "--preset",
    type=click.Choice(["fast", "compact", "bounded"]),
    default="compact",
    show_default=True,
    help="Codec: lossless and quick, lossless and small, or with an error bound.",
)
@click.option("--error", type=float, help="With bounded: largest absolute error of a weight.")
@click.option(
    "--relative-error",
    type=float,
    help="With bounded: the same as a fraction of the median change of a weight; by default 1e-3.",
)
@click.option(
    "--steps-per-chunk", type=click.IntRange(min=1), help="Steps in a chunk; by default up to 256."
)
@click.option("--parameters-per-chunk", type=click.IntRange(min=1), help="Weights in a chunk.")
@click.option(
    "--shard",
    type=click.IntRange(min=1),
    metavar="MB",
    help="Put chunks together in files of this many MB of numbers: fewer files, slower to read.",
)
@click.option("--from-step", type=int, help="First step to keep.")
@click.option("--to-step", type=int, help="Last step to keep.")
@click.option("--every", type=click.IntRange(min=1), help="Keep only steps that this divides.")
@click.option(
    "--memory", default=256, show_default=True, type=click.IntRange(min=1), help="MB to use."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def compact(path: str, **options: Any) -> None:
    """Write a history anew: longer chunks, another codec, fewer files, fewer steps.

    Every value of the copy is compared with the original before anything is replaced or deleted:
    all bits must agree, or the error bound must hold. Killed at any moment, the command leaves the
    original or the checked copy.

    \b
    Example:
      weightcast compact run.zarr --in-place
      weightcast compact run.zarr -o small.zarr --preset bounded
    """
    from weightcast.store import History, plan_compaction
    from weightcast.store.output import refuse_existing
    from weightcast.store.rechunking import Options

    _check_target(options)
    history = History(path)
    if options["output"] is not None:
        # Before the plan is printed; what is written in the end is checked again then.
        overwrite = options["overwrite"]
        refuse_existing(options["output"], overwrite=overwrite, kind="history", inputs=[path])
    chunks = Options(
        options["steps_per_chunk"],
        options["parameters_per_chunk"],
        options["shard"] and options["shard"] << 20,
        options["memory"] << 20,
    )
    names = ("preset", "error", "relative_error", "from_step", "to_step", "every")
    plan = plan_compaction(history, options=chunks, **{name: options[name] for name in names})
    _show_plan(plan)
    if not options["dry_run"]:
        _execute(history, plan, options)


def _check_target(options: dict[str, Any]) -> None:
    if options["in_place"] == (options["output"] is not None):
        raise click.UsageError("give one of -o OUTPUT and --in-place")
    for name in ("overwrite", "delete_original"):
        if options["in_place"] and options[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with -o, not --in-place")
    thinning = [name for name in ("from_step", "to_step", "every") if options[name] is not None]
    if thinning and (options["in_place"] or options["delete_original"]):
        raise click.UsageError(
            f"--{thinning[0].replace('_', '-')} leaves out recorded steps: write the copy with -o, "
            "and keep the original"
        )


def _show_plan(plan: CompactionPlan) -> None:
    rows = [
        (
            a.name,
            megabytes(a.bytes),
            f"{a.reads:,} of {_by(a.source_chunk)}",
            f"{a.files:,} of {_by(a.shard or a.chunk)}",
            _by(a.chunk),
        )
        for a in plan.arrays
    ]
    print_table(("array", "numbers", "chunks to read", "files to write", "in chunks"), rows)
    bound = "" if plan.error is None else f", weights within {plan.error:.4g}"
    click.echo(
        f"{len(plan.rows):,} of {plan.recorded:,} steps, {plan.preset}{bound}, at most "
        f"{megabytes(plan.memory)} of memory for numbers"
    )


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]:,} x {shape[1]:,}"


def _execute(history: History, plan: CompactionPlan, options: dict[str, Any]) -> None:
    from weightcast.store import History, compact_in_place
    from weightcast.store import compact as compact_history

    before, output = history.info().stored_bytes, options["output"] or str(history.path)
    with progress() as advance:
        if options["in_place"]:
            found = compact_in_place(history, plan, progress=advance)
        else:
            how = {name: options[name] for name in ("overwrite", "delete_original")}
            found = compact_history(history, output, plan, progress=advance, **how)
    facts = History(output).info()
    error = next(d.largest for d in found if d.array == "weights")
    checked = f"largest error {error:.4g}" if plan.error is not None else "every bit the same"
    click.echo(
        f"{output}: {megabytes(before)} before, {megabytes(facts.stored_bytes)} now, "
        f"for {megabytes(facts.raw_bytes)} of numbers (ratio {facts.ratio:.2f}); {checked}"
    )
