"""Where a pretrained forecaster comes from: its card, which is published."""

from __future__ import annotations

import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightcast.experiments.recording import LEARNING_RATE
from weightcast.experiments.training import BATCH
from weightcast.predictor import Errors, Introspection
from weightcast.predictor.cards import make_card
from weightcast.store import Dataset, History

if TYPE_CHECKING:
    from weightcast.experiments.pretraining import Plan


def about(
    plan: Plan,
    dataset: Dataset,
    forecaster: Introspection,
    held_out: list[Errors],
    other: list[Errors],
    runs: list[History],
) -> dict[str, Any]:
    """The forecaster's card: where it comes from, and what it is good for."""
    card = make_card(
        [dataset],
        errors=[e.to_json() for e in held_out],
        held_out=f"{plan.held_out:.0%} of the weights of the run that it learned from",
        seed=plan.seed,
        network={
            "name": "N0 of Sinha et al. 2017, section 4.1",
            "training": f"Adam at {LEARNING_RATE:g}, batches of {BATCH}, {plan.steps} steps",
            "recorded": f"every:{plan.every}",
            "runs": [
                {
                    "seed": plan.seed + i,
                    "snapshots": len(run),
                    "seconds": round(float(run.times[-1])),
                    "weights": run.parameters.size,
                    "test_accuracy": float(run.metric("accuracy")[1][-1]),
                }
                for i, run in enumerate(runs)
            ],
        },
        plan=asdict(plan),
        other_run={
            "held_out": f"all weights of a run with another seed, at {plan.points} steps t",
            "errors": [e.to_json() for e in other],
        },
        training_error=forecaster.training_error_,
        caveat=_caveat(held_out, other),
    )
    for described in card["datasets"]:  # it is published: no folders of this machine
        for stored in (described, *described["histories"]):
            stored["path"] = Path(stored["path"]).name
    return card


def _caveat(held_out: list[Errors], other: list[Errors]) -> str:
    """Where it is no better than the last value or the linear fit, in words."""
    worse = [
        f"{e.group} ({where})"
        for where, errors in (("held-out weights", held_out), ("other run", other))
        for e in errors
        if not e.forecaster < min(v for v in (e.last_value, e.linear_fit) if v is not None)
    ]
    told = f"no better than the last value or the linear fit on: {', '.join(worse)}. "
    return (told if worse else "") + (
        "Learned from one run of one small network on MNIST; elsewhere it may be worse than no "
        "forecast: measure it with 'weightcast evaluate' first."
    )


def command_line(output: str, work: str | None, plan: Plan) -> str:
    """What was called, for a card that is published: without the folders of this machine."""
    words = ["python", "-m", "weightcast.experiments.pretraining", "--data", "DATA"]
    words += ["-o", Path(output).name, *(["--work", "WORK"] if work else [])]
    for option in fields(plan):
        if (value := getattr(plan, option.name)) != option.default:
            words += [f"--{option.name.replace('_', '-')}", str(value)]
    return shlex.join(words)
