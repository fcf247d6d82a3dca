"""What ``weightcast run`` says at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weightcast.cli.console import echo_line

if TYPE_CHECKING:
    from weightcast.apply import Guard, JumpPlan
    from weightcast.apply.script import RunOutcome


def write_json(
    path: Any, command: tuple[str, ...], plan: JumpPlan, guard: Guard | None, outcome: RunOutcome
) -> None:
    """Write what happened, for programs."""
    import dataclasses
    import json

    document = {
        "command": list(command),
        "exit_code": outcome.exit_code,
        "failure": outcome.failure,
        "plan": str(plan),
        "guard": None if guard is None else dataclasses.asdict(guard),
        "summary": None if outcome.summary is None else dataclasses.asdict(outcome.summary),
        "events": [dataclasses.asdict(event) for event in outcome.events],
        "history": None if outcome.recorded is None else outcome.recorded.path,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def report(name: str, outcome: RunOutcome, plan: JumpPlan, options: dict[str, Any]) -> int:
    """Say how it ended; gives the exit code."""
    summary = outcome.summary
    if outcome.failure:
        echo_line(f"{name} stopped early: {outcome.failure}")
    if summary is None:
        why = f"{name} took no torch optimizer step, so nothing jumped: does it train in this "
        why += "process?"
        if outcome.other_models:
            why = f"{name} trains no model called {options['model']!r}, so nothing jumped: it "
            why += f"trains {', '.join(outcome.other_models)}"
        echo_line(why)
        return outcome.exit_code or 1
    if options["quiet"]:
        return outcome.exit_code
    if summary.steps < plan.points[0]:
        first = f"the first jump was to be at step {plan.points[0]:,}"
        echo_line(f"no jump was made: {name} took {summary.steps:,} steps, and {first}")
    else:
        echo_line(summary)
    if summary.made > summary.kept + summary.rolled_back:
        echo_line(
            f"the last jump was not judged before {name} ended: what it saved may be worse for it"
            + ("" if plan.end is not None else "; give the last step of training (--end)")
        )
    if outcome.recorded is not None:
        echo_line(outcome.recorded)
    if outcome.others:
        echo_line(
            f"other optimizers took {outcome.others:,} steps, of models that do not jump; to jump "
            "another model, choose it with --model"
            + (f": {', '.join(outcome.other_models)}" if outcome.other_models else "")
        )
    return outcome.exit_code
