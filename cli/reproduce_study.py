"""The studies of ``weightcast reproduce``: skipping, rewinding, the early phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import echo, echo_line, print_json

if TYPE_CHECKING:
    from pathlib import Path

    from weightcast.experiments.sources import Found
    from weightcast.experiments.study import Request, Study, StudyJob

OPTIONS = ("network", "rewind", "rounds")  # that experiments do not have


def reproduce_studies(
    names: Sequence[str],
    folder: Path,
    workers: int,
    *,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Run studies, as far as they are not done, and say what came of them."""
    from weightcast.cli.reproduce_jobs import do
    from weightcast.cli.reproduce_plan import print_plan
    from weightcast.experiments.jobs import Place
    from weightcast.experiments.kept import kept
    from weightcast.experiments.reproducing import held, refuse_foreign
    from weightcast.experiments.studies import study_of
    from weightcast.experiments.study import with_needs

    studies = [study_of(name) for name in dict.fromkeys(names)]
    jobs = with_needs([job for s in studies for job in s.plan(_request(s, **options))])
    found = _found(jobs, dry_run=dry_run, **options)
    for job in jobs:
        if job.data <= found.data.keys():
            kept(job.result(folder), job.made(found.data))
    left, place = with_needs(jobs, folder), Place(folder, found.folders, options["device"])
    if dry_run:
        refuse_foreign(folder)
        return print_plan(jobs, place, found, workers, as_json=as_json)
    with held(folder):
        failures = do(left, place, workers)
        try:
            _report(studies, folder, as_json=as_json)
        finally:
            for failure in failures:
                echo_line(failure)
    return 1 if failures else 0


def _request(
    study: Study,
    *,
    network: str | None,
    rewind: str | None,
    rounds: int | None,
    seeds: int,
    budget: str,
    arms: str | None,
    **_: Any,
) -> Request:
    """The options, as far as the study takes them."""
    from weightcast.experiments.study import Request
    from weightcast.predictor.models import nearest

    given = {"network": network, "rewind": rewind, "rounds": rounds, "arms": arms}
    for option, value in given.items():
        if value is not None and option not in study.options:
            raise click.UsageError(f"{study.name} takes no --{option}")
    networks = () if network is None else tuple(part.strip() for part in network.split(","))
    for name in networks:
        if name not in study.networks:
            raise click.UsageError(
                f"{study.name} has no network {name!r:.80}{nearest(name, study.networks)}"
            )
    return Request(networks, seeds, budget, _steps(rewind), rounds)


def _steps(text: str | None) -> tuple[int, ...]:
    try:
        return () if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"must be steps, such as 0,100,500: got {text!r:.80}", param_hint="--rewind"
        ) from None


def _found(
    jobs: Sequence[StudyJob], *, data: Sequence[str], fetch: str | None, dry_run: bool, **_: Any
) -> Found:
    """The data that jobs need."""
    from weightcast.experiments.sources import Given, find_data
    from weightcast.store import InputNotFoundError

    needed = sorted(set().union(*(job.data for job in jobs)))
    found = find_data(needed, Given.parse(data), fetch, dry_run=dry_run)
    if found.missing:
        raise InputNotFoundError(f"no data: {'; '.join(found.missing.values())}")
    return found


def _report(studies: Sequence[Study], folder: Path, *, as_json: bool) -> None:
    """Say what came of studies, as far as anything did, and write their documents."""
    from weightcast.store import InputNotFoundError

    facts = {}
    for study in studies:
        try:
            found, text = study.facts(folder), study.tables(folder)
            path = _document(study, folder)
        except InputNotFoundError:  # its jobs failed, which is told
            continue
        facts[study.name] = found
        if not as_json:
            echo(text)
        if path is not None:
            echo(f"tables, figures and numbers: {path}", err=as_json)
    if as_json:
        print_json(facts)


def _document(study: Study, folder: Path) -> Path | None:
    from weightcast.store import MissingExtraError

    try:
        return study.document(folder, folder / "docs")
    except MissingExtraError as error:
        echo_line(f"no document: {error}")
        return None
