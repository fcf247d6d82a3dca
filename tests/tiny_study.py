"""A study of sums, whose jobs build on each other; one of them fails when it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightcast.experiments.jobs import Place
from weightcast.experiments.kept import keep, required
from weightcast.experiments.loading import Data
from weightcast.experiments.queueing import Progress
from weightcast.experiments.study import Request, Study, StudyJob
from weightcast.store import InputNotFoundError

NAME = "sums"


@dataclass(frozen=True)
class Sum(StudyJob):
    """The sum of the numbers up to one, from the sum up to the one before; 13 is unlucky."""

    network: str
    number: int

    label = property(lambda self: f"{NAME}, {self.network}, {self.number}")
    kind = NAME
    seconds = 1.0
    data = frozenset({"mnist"})  # type: ignore[assignment]

    @property
    def needs(self) -> tuple[StudyJob, ...]:
        return (Sum(self.network, self.number - 1),) if self.number else ()

    def made(self, data: Mapping[str, Data]) -> dict[str, Any]:
        return {"network": self.network, "number": self.number, "sha256": data["mnist"].sha256}

    def result(self, folder: Path) -> Path:
        return folder / NAME / f"{self.network}-{self.number}.json"

    def perform(self, place: Place, progress: Progress) -> None:
        if self.number == 13 or self.network == "unlucky":
            raise ArithmeticError(f"{self.number} is unlucky")
        before = required(self.needs[0].result(place.folder))["sum"] if self.needs else 0
        progress(1, 1)
        made = self.made({"mnist": place.data("mnist")})
        keep(self.result(place.folder), made, {"sum": before + self.number})


def plan(request: Request) -> list[StudyJob]:
    """The last sums of each network."""
    return [Sum(name, request.rounds or 3) for name in request.networks or STUDY.networks[:1]]


def facts(folder: Path) -> dict[str, int]:
    """The sums that are there."""
    if not (found := sorted((folder / NAME).glob("*.json"))):
        raise InputNotFoundError(f"no sums in {folder}")
    return {path.stem: required(path)["sum"] for path in found}


def tables(folder: Path) -> str:
    """The same, to read."""
    return "\n".join(f"{name}: {number}" for name, number in facts(folder).items())


def document(results: Path | None, docs: Path) -> Path:
    """The same, to keep."""
    docs.mkdir(exist_ok=True)
    (docs / "sums.md").write_text(tables(results) if results else "")
    return docs / "sums.md"


STUDY = Study(
    *(NAME, "Sums", "Gauss 1784", ("small", "large", "unlucky"), frozenset({"network", "rounds"})),
    *(plan, tables, facts, document),
)
