"""Studies: how ``weightcast reproduce`` runs them, and the numbers that they keep."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import tiny_study
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tiny_experiments import write_images

from weightcast.cli.main import main
from weightcast.experiments.kept import keep, kept, required
from weightcast.experiments.studies import MODULES, study_of
from weightcast.experiments.studies import main as make_documents
from weightcast.experiments.study import Request, with_needs
from weightcast.store import FormatError, InputNotFoundError, OutputExistsError

ROOT = Path(__file__).parent.parent
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=9,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "sums", "tiny_study")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def reproduce(folder: Path, images: Path, *more: str) -> int:
    return main(["reproduce", "sums", "--data", f"mnist={images}", "-o", str(folder), *more])


def test_a_study_runs_what_its_jobs_need_and_goes_on(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    assert reproduce(folder, images, "--rounds", "2") == 0
    assert "small-2: 3" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (folder / "sums").iterdir()}
    assert reproduce(folder, images, "--rounds", "4", "--workers", "2", "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out)["sums"]["small-4"] == 10
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert (folder / "docs" / "sums.md").read_text().splitlines()[-1] == "small-4: 10"


def test_what_fails_is_told_and_so_is_what_needs_it(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(tmp_path / "results", images, "--rounds", "14") == 1
    shown = capsys.readouterr()
    assert "small-12: 78" in shown.out
    assert "weightcast: sums, small, 13 failed: ArithmeticError: 13 is unlucky" in shown.err
    assert "weightcast: sums, small, 14 failed: what it needs failed" in shown.err
    assert "Traceback" not in shown.err


def test_where_all_fails_that_is_what_is_told(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(tmp_path / "results", images, "--network", "unlucky", "--rounds", "1") == 1
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith("weightcast: sums, unlucky, 0 failed: ArithmeticError: 0 is unlucky")
    assert second == "weightcast: sums, unlucky, 1 failed: what it needs failed"


def test_documents_are_made_of_the_numbers_that_there_are(tmp_path: Path, images: Path) -> None:
    results, run = tmp_path / "results", CliRunner()
    assert run.invoke(make_documents, [str(tmp_path)]).exit_code == 2
    assert run.invoke(make_documents, ["a", "b", "c"]).exit_code == 2
    reproduce(results, images)
    made = run.invoke(make_documents, [str(results), str(tmp_path / "docs")])
    assert made.output == f"{tmp_path / 'docs' / 'sums.md'}\n"
    (results / "sums" / "small-3.json").write_text("{}")
    made = run.invoke(make_documents, [str(results), str(tmp_path / "docs")])
    assert made.exit_code == 1
    assert "does not hold numbers of a study" in made.output


def test_the_plan_is_shown_and_nothing_done(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    assert reproduce(folder, images, "--dry-run", "--network", "large") == 0
    out = capsys.readouterr().out
    assert "4 of 4 to do" in out
    assert "sums, large, 0" in out
    assert not folder.exists()
    reproduce(folder, images, "--rounds", "2")
    capsys.readouterr()
    assert reproduce(folder, images, "--dry-run", "--json") == 0
    states = {job["job"]: job["state"] for job in json.loads(capsys.readouterr().out)}
    assert states["sums, small, 2"] == "done"
    assert states["sums, small, 3"] == "to do"


def test_results_of_other_data_are_not_taken_up(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    reproduce(folder, images)
    other = write_images(tmp_path / "other", seed=1)
    assert reproduce(folder, other) == 2
    assert "was made with another sha256: give another results folder" in capsys.readouterr().err
    (folder / "sums" / "small-3.json").write_text("{}")
    assert reproduce(folder, images) == 1
    assert "does not hold numbers of a study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sums", "mnist2"], "sums is a study and mnist2 is none: run them one after the other"),
        (["mnist2", "--rounds", "2"], "--rounds is an option of studies, and no study is named"),
        (["sums", "--rewind", "5"], "sums takes no --rewind"),
        (["sums", "--arms", "plain"], "sums takes no --arms"),
        (["impp"], "no experiment 'impp': did you mean 'imp'? There are"),
        (["imp", "--rewind", ""], "must be steps, such as 0,100,500: got ''"),
        (["sums", "--network", "smal"], "sums has no network 'smal': did you mean 'small'"),
        (["imp", "--rewind", "1,x"], "must be steps, such as 0,100,500: got '1,x'"),
    ],
)
def test_bad_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_data_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "sums", "-o", str(tmp_path / "results")]) == 2
    assert "give its folder with --data mnist=DIR" in capsys.readouterr().err


def test_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["sums"]["networks"] == ["small", "large", "unlucky"]
    assert found["sums"]["seconds"] == 4
    assert {"wus", "imp", "early-phase", "mnist1"} <= found.keys()
    assert main(["reproduce", "--list"]) == 0
    assert "networks of sums: small, large, unlucky" in capsys.readouterr().out
    assert main(["reproduce", "sums", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "Gauss 1784" in shown
    assert "mnist1" not in shown


@pytest.mark.parametrize("name", list(MODULES))
def test_the_committed_documents_are_those_of_their_numbers(name: str, tmp_path: Path) -> None:
    for path in sorted((ROOT / "docs" / name).glob("*.json")):
        copy = tmp_path / name / path.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    made = study_of(name).document(None, tmp_path)
    assert made.read_text() == (ROOT / "docs" / f"{name}.md").read_text()


@pytest.mark.parametrize("name", list(MODULES))
@pytest.mark.parametrize("budget", ["paper", "quick"])
def test_plans_are_of_different_jobs_with_files_of_their_own(name: str, budget: str) -> None:
    study = study_of(name)
    for network in study.networks:
        jobs = with_needs(study.plan(Request((network,), seeds=2, budget=budget)))
        files = [job.result(Path()) for job in jobs]
        assert len(set(files)) == len(files) == len({job.label for job in jobs})
        assert all(job.seconds > 0 for job in jobs)
        assert all(jobs.index(need) < at for at, job in enumerate(jobs) for need in job.needs)


def test_what_is_done_is_not_planned_again(tmp_path: Path) -> None:
    last = tiny_study.Sum("small", 3)
    assert [job.label[-1] for job in with_needs([last])] == ["0", "1", "2", "3"]
    path = tiny_study.Sum("small", 1).result(tmp_path)
    path.parent.mkdir()
    path.touch()
    assert [job.label[-1] for job in with_needs([last], tmp_path)] == ["2", "3"]


@given(numbers=st.dictionaries(st.text(), JSON, max_size=3))
def test_numbers_come_back(numbers: dict[str, object], tmp_path_factory: object) -> None:
    path = tmp_path_factory.mktemp("kept") / "a.json"  # type: ignore[attr-defined]
    keep(path, {"seed": 1}, numbers)

    def finite(value: object) -> object:
        if isinstance(value, dict):
            return {key: finite(part) for key, part in value.items()}
        if isinstance(value, list):
            return [finite(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    assert kept(path, {"seed": 1}) == finite(numbers)


def test_numbers_that_were_made_otherwise_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert kept(path) is None
    with pytest.raises(InputNotFoundError, match="no numbers"):
        required(path)
    keep(path, {"seed": 1, "steps": (1, 2)}, {"x": 1})
    assert kept(path, {"steps": [1, 2], "seed": 1}) == {"x": 1}
    with pytest.raises(OutputExistsError, match="made with another seed and other steps"):
        kept(path, {"seed": 2})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "made": 1, "numbers": {}}'])
def test_damaged_numbers_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FormatError):
        kept(tmp_path / "a.json")


def test_numbers_of_a_later_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"version": 2, "made": {}, "numbers": {}}')
    with pytest.raises(FormatError, match="another version than 1"):
        kept(tmp_path / "a.json")
