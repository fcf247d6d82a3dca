"""What a folder of results says: tables, curves and the document, and the same for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.claims import judge
from weightcast.experiments.experiment import Experiment
from weightcast.experiments.findings import findings
from weightcast.experiments.merging import gather, run_set
from weightcast.experiments.sections import arms_table, bullets, claims_table
from weightcast.experiments.summary import Summary, summarise
from weightcast.store.output import write_text


def summaries(folder: Path, names: Iterable[str]) -> list[Summary]:
    """Numbers of the experiments whose folders of results have those names, where there are any."""
    names = list(names)
    found = gather(folder, names) if names else {}
    return [summarise(run_set(found[name])) for name in names if name in found]


def write_table(summary: Summary, folder: Path) -> str:
    """Write an experiment's table beside its runs; gives its text."""
    entry = summary.set.entry
    judged = [judge(claim, summary) for claim in entry.claims]
    found = findings_of(summary)
    parts = [
        *filter(None, [warning(entry)]),
        f"{entry.title} ({entry.folder})",
        arms_table(summary),
        *([claims_table(judged)] if judged else []),
        *([bullets(found)] if found else []),
    ]
    text = "\n\n".join(parts) + "\n"
    write_text(folder / entry.folder / "table.txt", text)
    return text


def findings_of(summary: Summary) -> list[str]:
    """What an experiment shows, in sentences; nothing at the quick budget."""
    entry = summary.set.entry
    judged = [judge(claim, summary) for claim in entry.claims]
    return findings(summary, judged) if entry.budget == "paper" else []


def warning(entry: Experiment) -> str:
    """What to know before looking at numbers of the quick budget; else empty."""
    if entry.budget == "paper":
        return ""
    of = f" of {steps:,}" if (steps := _paper_steps(entry)) else ""
    return f"{entry.steps:,}{of} steps: this shows that it runs, and says nothing about accuracy"


def facts(summary: Summary) -> dict[str, Any]:
    """An experiment's numbers as JSON, by seed; null is what was never reached, or is infinite."""
    arms = {name: _plain(asdict(arm)) for name, arm in summary.arms.items()}
    for arm in arms.values():
        del arm["name"], arm["traces"]
    return {
        "experiment": summary.set.entry.name,
        "budget": summary.set.entry.budget,
        "steps": summary.set.entry.steps,
        "steps of the paper": _paper_steps(summary.set.entry),
        "arms": arms,
        "missing": summary.missing,
    }


def _paper_steps(entry: Experiment) -> int | None:
    return CATALOGUE[entry.name].steps if entry.name in CATALOGUE else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = value["by_seed"] if value.keys() == {"by_seed"} else value
        return {str(key): _plain(v) for key, v in inner.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
