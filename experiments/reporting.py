"""What a folder of results says: tables, curves and the document, and the same for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weightcast.experiments.claims import judge
from weightcast.experiments.findings import findings
from weightcast.experiments.merging import gather, run_set
from weightcast.experiments.sections import arms_table, bullets, claims_table
from weightcast.experiments.summary import Summary, summarise
from weightcast.store.output import replacing


def summaries(folder: Path, names: Iterable[str]) -> list[Summary]:
    """Numbers of the experiments whose folders of results have those names, where there are any."""
    found = gather(folder)
    return [summarise(run_set(found[name])) for name in names if name in found]


def write_table(summary: Summary, folder: Path) -> str:
    """Write an experiment's table beside its runs; gives its text."""
    entry = summary.set.entry
    judged = [judge(claim, summary) for claim in entry.claims]
    parts = [
        f"{entry.title} ({entry.folder})",
        arms_table(summary),
        *([claims_table(judged)] if judged else []),
        bullets(findings(summary, judged)),
    ]
    text = "\n\n".join(parts) + "\n"
    with replacing(folder / entry.folder / "table.txt") as temporary:
        temporary.write_text(text)
    return text


def facts(summary: Summary) -> dict[str, Any]:
    """An experiment's numbers as JSON, by seed; null is what was never reached, or is infinite."""
    arms = {name: _plain(asdict(arm)) for name, arm in summary.arms.items()}
    for arm in arms.values():
        del arm["name"], arm["traces"]
    return {
        "experiment": summary.set.entry.name,
        "budget": summary.set.entry.budget,
        "arms": arms,
        "missing": summary.missing,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = value["by_seed"] if value.keys() == {"by_seed"} else value
        return {str(key): _plain(v) for key, v in inner.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
