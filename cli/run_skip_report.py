"""What ``weightcast run --skip-updates`` says at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weightcast.cli.console import echo_line

if TYPE_CHECKING:
    from weightcast.apply.skip_rule import SkipRule
    from weightcast.apply.skip_script import SkipOutcome
    from weightcast.apply.skip_values import MeanLoss, PrintedMetric

STEPS = 500  # of an evaluation by the training loss: enough for its noise to average out


def described(rule: SkipRule, options: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, for programs and for who reads the history."""
    import dataclasses

    every = (options["evaluate_every"] or STEPS) if options["metric"] is None else None
    return {**dataclasses.asdict(rule), "metric": options["metric"], "evaluate_every": every}


def write_json(
    path: Any,
    command: tuple[str, ...],
    rule: SkipRule,
    outcome: SkipOutcome,
    options: dict[str, Any],
) -> None:
    """Write what was decided, for programs; an evaluation that is not finite is null."""
    import dataclasses
    import json
    import math

    events = [dataclasses.asdict(event) for event in outcome.events]
    for event in events:
        event["value"] = event["value"] if math.isfinite(event["value"]) else None
    summary = outcome.summary
    document = {
        "command": list(command),
        "exit_code": outcome.exit_code,
        "failure": outcome.failure,
        "rule": described(rule, options),
        "summary": None
        if summary is None
        else {**dataclasses.asdict(summary), "share": summary.share},
        "events": events,
        "history": None if outcome.recorded is None else outcome.recorded.path,
    }
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def report(
    name: str, outcome: SkipOutcome, values: PrintedMetric | MeanLoss, options: dict[str, Any]
) -> int:
    """Say how it ended; gives the exit code."""
    if outcome.failure:
        echo_line(f"{name} stopped early: {outcome.failure}")
    if outcome.summary is None:
        why = f"{name} took no torch optimizer step, so nothing was skipped: does it train in this "
        why += "process?"
        if outcome.other_models:
            why = f"{name} trains no model called {options['model']!r}, so nothing was skipped: it "
            why += f"trains {', '.join(outcome.other_models)}"
        echo_line(why)
        return outcome.exit_code or 1
    if why := _missing(name, outcome, values):
        echo_line(why)
    if options["quiet"]:
        return outcome.exit_code
    if not outcome.summary.windows and outcome.events:
        echo_line(f"nothing was skipped: {outcome.events[-1].reason}")
    else:
        echo_line(outcome.summary)
    if outcome.recorded is not None:
        echo_line(outcome.recorded)
    if outcome.others:
        echo_line(
            f"other optimizers took {outcome.others:,} steps, of models that were left alone; "
            f"choose one with --model: {', '.join(outcome.other_models)}"
        )
    return outcome.exit_code


def _missing(name: str, outcome: SkipOutcome, values: PrintedMetric | MeanLoss) -> str:
    """Why evaluations did not arrive; empty if they did."""
    from weightcast.apply.skip_values import MeanLoss

    none, steps = not outcome.events, outcome.summary.steps if outcome.summary else 0
    if isinstance(values, MeanLoss):
        if not none:
            return ""
        if steps < values.every:
            return (
                f"nothing was skipped: {name} took {steps:,} steps, and an evaluation takes "
                f"{values.every:,}: give fewer (--evaluate-every)"
            )
        return (
            f"nothing was skipped: {name} called backward on no loss: let an evaluation that it "
            "prints decide (--metric)"
        )
    pattern = values.pattern
    if pattern.unread:
        return (
            f"--metric '{pattern.regex}' finds {pattern.unread!r}, which is no number, fraction or "
            "percentage: correct it" + (", as nothing was skipped" if none else "")
        )
    if none:
        return (
            f"nothing was skipped: no line that {name} wrote matched --metric '{pattern.regex}': "
            "correct it, or leave it out to let the training loss decide"
        )
    return ""
