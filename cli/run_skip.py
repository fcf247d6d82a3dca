"""``weightcast run --skip-updates``: its options, and its run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from weightcast.cli.console import echo_line
from weightcast.cli.run_output import check_output, recording_options
from weightcast.cli.run_skip_report import STEPS, described, report, write_json

if TYPE_CHECKING:
    from weightcast.apply.skip_rule import SkipRule
    from weightcast.apply.skip_values import MeanLoss, PrintedMetric

Command = TypeVar("Command", bound=Callable[..., Any])

_RULE = ("threshold", "window", "longest")
_OURS = {"metric", "evaluate_every", "better", *_RULE}
_SHARED = {"skip_updates", "model", "record", "schedule", "json_path", "overwrite", "quiet"}

_OPTIONS = (
    click.option(
        "--skip-updates",
        is_flag=True,
        help="In place of jumps: train biases and normalization only while evaluations gain "
        "little. All options below go with it; of those above, --model, --record, --schedule, "
        "--json, --overwrite and -q.",
    ),
    click.option(
        "--metric",
        metavar="REGEX",
        help="Where the script prints its evaluations: a regular expression, searched for in each "
        "line. Its one group, or the group named value, is a number, a fraction (9830/10000) or a "
        "percentage. By default the training loss decides.",
    ),
    click.option(
        "--evaluate-every",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"Without --metric: an evaluation is the mean loss of N steps; by default {STEPS}.",
    ),
    click.option(
        "--better",
        type=click.Choice(["higher", "lower"]),
        help="Which evaluations are better; by default higher with --metric, lower without.",
    ),
    click.option(
        "--threshold",
        type=float,
        metavar="GAIN",
        help="Skip while the gain is below it: in the metric's units where higher is better, a "
        "share of the loss where lower is; by default 0.001.",
    ),
    click.option(
        "--window",
        type=click.IntRange(min=1),
        metavar="N",
        help="Evaluations over which the gain is taken; by default 3.",
    ),
    click.option(
        "--longest",
        type=click.IntRange(min=1),
        metavar="N",
        help="Evaluations that updates are skipped at a time, at most; by default the window.",
    ),
)


def skip_options(command: Command) -> Command:
    """Add the options of ``--skip-updates`` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def sort_out(context: click.Context) -> bool:
    """Whether updates are to be skipped; refuses options that go with the other way only."""
    skipping: bool = context.params["skip_updates"]
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        given = source not in (None, click.core.ParameterSource.DEFAULT)
        if not given or isinstance(option, click.Argument) or name in _SHARED:
            continue
        if skipping and name not in _OURS:
            raise click.UsageError(f"--skip-updates goes without {option.opts[0]}: nothing jumps")
        if not skipping and name in _OURS:
            raise click.UsageError(f"{option.opts[0]} goes with --skip-updates")
    return skipping


def run_skipping(command: tuple[str, ...], options: dict[str, Any]) -> int:
    """Run a script and skip weight updates in it; gives the exit code."""
    from weightcast.apply.skip_script import skip_script
    from weightcast.recorder.distributed import writes_here

    rule, values = _rule(options), _values(options)
    check_output(command, options)

    def tell(text: object) -> None:
        if not options["quiet"] and writes_here():
            echo_line(text)

    outcome = skip_script(
        command,
        rule,
        values,
        record=options["record"],
        recording=recording_options(command, options, skips=described(rule, options)),
        starting=lambda: tell(f"{rule}; {_where(options)}"),
        model=options["model"],
        # an evaluation that changes nothing is in --json and in the history
        listener=lambda event: tell(event) if event.kind in ("entered", "left") else None,
        begun=lambda model: tell(f"weight updates of {model} may be skipped"),
    )
    if outcome.elsewhere:
        return outcome.exit_code  # rank 0 tells
    if options["json_path"] is not None:
        write_json(options["json_path"], command, rule, outcome, options)
    name = " ".join(command[:2]) if command[0] == "-m" else command[0]
    return report(name, outcome, values, options)


def _rule(options: dict[str, Any]) -> SkipRule:
    from weightcast.apply.skip_rule import SkipRule

    given = {name: options[name] for name in _RULE if options[name] is not None}
    better: Any = options["better"] or ("lower" if options["metric"] is None else "higher")
    return SkipRule(better=better, **given)


def _values(options: dict[str, Any]) -> PrintedMetric | MeanLoss:
    from weightcast.apply.skip_values import MeanLoss, PrintedMetric

    regex, every = options["metric"], options["evaluate_every"]
    if regex is None:
        return MeanLoss(every or STEPS)
    if every is not None:
        raise click.UsageError("--evaluate-every goes without --metric: the script evaluates")
    return PrintedMetric(regex)


def _where(options: dict[str, Any]) -> str:
    """Where the evaluations come from, in words."""
    if options["metric"] is not None:
        return f"an evaluation is what '{options['metric']}' finds in the script's output"
    every = options["evaluate_every"] or STEPS
    return f"an evaluation is the mean training loss of {every:,} steps"
