"""Forecasters, networks and experiments of a user's own, beside those of the papers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_experiments import TINY, write_images

from weightcast.cli.main import main
from weightcast.experiments import NETWORKS, Arm, Data, load_data, run_arm, running
from weightcast.experiments import reproducing as reproducing_module
from weightcast.experiments.catalogue import CATALOGUE, find
from weightcast.experiments.experiment import Experiment
from weightcast.experiments.forecasters import identity
from weightcast.experiments.own import Own, with_own
from weightcast.experiments.queueing import Event
from weightcast.experiments.results import RunResult, read_result
from weightcast.predictor import Forecaster, GaussianNoise, LinearFit, SklearnForecaster, save
from weightcast.predictor.forecaster import UnfittedError
from weightcast.store import FormatError, InputNotFoundError, OutputExistsError, UsageError

DOC = Path(__file__).parent.parent / "docs/reproducing.md"
ENTRY = replace(TINY, name="tiny", arms=(TINY.arms[0], TINY.arms[2]), averaged=True)


@pytest.fixture(autouse=True)
def tiny_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "tiny", ENTRY)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are done one after the other, here: workers have tests of their own."""

    def work(
        do: Callable[..., None], jobs: Sequence[Any], needs: object, workers: int
    ) -> Iterator[Event]:
        for i, job in enumerate(jobs):
            do(job, lambda done, total: None)
            yield Event(i, "done")

    monkeypatch.setattr(reproducing_module, "work", work)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def measured(result: RunResult) -> list[Any]:
    (trace,) = result.traces.values()
    return [trace.steps, trace.loss, trace.accuracy, result.jumps]


# ---- from the command line


def test_own_forecasters_run_beside_the_papers(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    mine, results = LinearFit(horizon=1.1), tmp_path / "results"
    save(mine, "mine.safetensors")
    words = ["reproduce", "tiny", "--data", str(images), "-o", str(results)]
    own = ["--forecaster", "mine.safetensors", "--forecaster", "linear-fit@1.3"]
    assert main([*words, "--seeds", "1", *own, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert list(told["arms"]) == ["plain", "jumps", "linear-fit@1.3", "mine", "averaging"]
    assert told["arms"]["mine"]["jumps"] == {"0": 2}

    data = load_data("mnist", images)
    for name, forecaster in (("mine", mine), ("linear-fit@1.3", LinearFit(horizon=1.3))):
        file = f"{name.replace('@', '-')}-seed0.json"
        arm = Arm(name, (14, 25), forecaster)
        expected = run_arm(ENTRY, arm, 0, data=data, folder=tmp_path / "reference")
        assert measured(read_result(results / "tiny" / file)) == measured(expected)

    # a run of it goes on, though the file is gone from where it was; others can be left out
    kept = (results / "tiny" / "mine-seed0.json").read_bytes()
    Path("elsewhere").mkdir()
    Path("mine.safetensors").rename("elsewhere/mine.safetensors")
    again = ["--forecaster", "elsewhere/mine.safetensors", "--arms", "mine", "--seeds", "1"]
    assert main([*words, *again, "--dry-run", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["job"], row["state"]) == ("tiny, mine, seed 0", "done")
    assert main([*words, "--seeds", "2", "--arms", "plain,jumps"]) == 0
    assert (results / "tiny" / "mine-seed0.json").read_bytes() == kept

    # all that is there is shown, and nothing that was not asked for is called missing
    table = (results / "tiny" / "table.txt").read_text()
    document = (results / "reproduction.md").read_text()
    for text in (table, document, (results / "reproduction/tiny.json").read_text()):
        assert "mine" in text
        assert "linear-fit@1.3" in text
    assert "Not complete" not in document
    assert "Out of date" not in document
    assert (results / "reproduction/tiny.png").exists()

    capsys.readouterr()
    save(LinearFit(horizon=1.2), "mine.safetensors")  # another one of the same name
    assert main([*words, "--forecaster", "mine.safetensors", "--arms", "mine"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "mine-seed0.json was made with another arm: give another results folder" in line


def test_a_file_that_changes_after_the_start_changes_no_run(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(LinearFit(horizon=1.1), tmp_path / "mine.safetensors")
    work = reproducing_module.work

    def changed(*given: Any) -> Iterator[Event]:
        save(LinearFit(horizon=1.9), path, overwrite=True)
        yield from work(*given)

    monkeypatch.setattr(reproducing_module, "work", changed)
    results = tmp_path / "results"
    words = ["reproduce", "tiny", "--data", str(images), "-o", str(results), "--seeds", "1"]
    assert main([*words, "--arms", "mine", "--forecaster", str(path)]) == 0
    expected = run_arm(
        ENTRY,
        Arm("mine", (14, 25), LinearFit(horizon=1.1)),
        0,
        data=load_data("mnist", images),
        folder=tmp_path / "reference",
    )
    assert measured(read_result(results / "tiny" / "mine-seed0.json")) == measured(expected)


REFUSED = {
    "a paper's name": ("plain.safetensors", "tiny has an arm 'plain' already"),
    "with other letters": ("Jumps.safetensors", "tiny has an arm 'jumps' already"),
    "what stands beside plain": ("averaging.safetensors", "has an arm 'averaging' already"),
    "given twice": ("linear-fit --forecaster linear-fit", "two forecasters are named 'linear-fit'"),
    "strange letters": ("'a | b.safetensors'", "must begin with a letter or digit"),
    "a point first": (".hidden.safetensors", "must begin with a letter or digit"),
    "another suffix": ("mine.bin", "must end in .safetensors or .skops"),
    "empty": ("''", "needs a file or a name"),
    "nothing": ("no-such-thing", "no forecaster file no-such-thing"),
    "a name like one": ("linear-fti", "did you mean 'linear-fit'?"),
    "a folder": ("images", "no forecaster file images"),
    "no forecaster": ("text.safetensors", "text.safetensors is not a safetensors file"),
    "no number": ("linear-fit@1.2.3", "no forecaster file linear-fit@1.2.3"),
    "no past yet": ("line", "line cannot jump in tiny: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_an_arm_gets_one_line(
    case: str,
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words, text = REFUSED[case]
    for name in shlex.split(words):
        if name.endswith(".safetensors"):
            save(LinearFit(), name)
    for name in ("text.safetensors", "mine.bin"):
        Path(name).write_text("a text")
    command = ["reproduce", "tiny", "--data", str(images), "--forecaster", *shlex.split(words)]
    assert main(command) in (1, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert text in line
    assert not Path("results").exists()


def test_studies_take_no_forecaster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "wus", "--forecaster", "line", "--dry-run"]) == 2
    assert "wus takes no --forecaster" in capsys.readouterr().err


def test_files_with_types_to_trust_are_not_loaded(tmp_path: Path) -> None:
    pytest.importorskip("skops")
    from sklearn.tree import DecisionTreeRegressor

    X = np.arange(40, dtype=np.float32).reshape(10, 4)
    tree = SklearnForecaster(DecisionTreeRegressor(max_depth=1)).fit(X, X[:, 0])
    with pytest.raises(FormatError, match=r"not trusted, .*Tree.*: if you .* load it in Python"):
        Own.given(str(save(tree, tmp_path / "tree.skops")))


# ---- as data


@pytest.mark.parametrize("entry", [e for e in CATALOGUE.values() if e.name != "baselines"])
def test_an_own_arm_is_the_paper_s_but_for_the_forecaster(entry: Experiment) -> None:
    found = with_own(entry, [Own.given("last-value"), Own.given("noise")])
    assert found.arms[:-2] == entry.arms
    assert replace(found, arms=()) == replace(entry, arms=())
    jumps = next(arm for arm in entry.arms if arm.name == "jumps")
    assert found.arms[-2] == replace(jumps, name="last-value", forecaster="last-value")
    assert found.arms[-1] == replace(jumps, name="noise", forecaster="noise")


def test_an_experiment_without_jumps_has_no_place_for_a_forecaster() -> None:
    still = replace(TINY, arms=(Arm("plain"), Arm("cycle", (9,), schedule="one-cycle")))
    assert with_own(still, []) == still
    with pytest.raises(UsageError, match="tiny has no arm that jumps"):
        with_own(still, [Own.given("line")])


def test_clashes_of_the_catalogue_are_seen() -> None:
    with pytest.raises(UsageError, match="baselines has an arm"):
        with_own(find("baselines"), [replace(Own.given("noise"), name="K = 2.2")])


# ---- from Python


class Halfway(Forecaster):
    """A part of the way from w(0.4t) to w(t) once more: no class that files know."""

    def __init__(self, part: float = 0.5) -> None:
        self.part, self.context, self.horizon = part, (1.0, 0.4), 1.3

    def _learn(self, X: Any, y: Any, **options: Any) -> None:
        self.learned_ = self.part

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda seen: seen[0] + self.learned_ * (seen[0] - seen[1])


def halfway(part: float) -> Forecaster:
    return Halfway(part).fit(np.zeros((1, 2)), np.zeros(1))


def digits_of(images: Path) -> Data:
    return load_data("mnist", images)


def test_a_forecaster_of_any_class_runs_and_is_known_by_what_it_forecasts(
    tmp_path: Path, images: Path
) -> None:
    options: dict[str, Any] = {"data": digits_of(images), "folder": tmp_path}
    first = run_arm(ENTRY, Arm("own", (14, 25), halfway(0.5)), 0, **options)
    assert first.jumps == [14, 25]
    json.dumps(first.made)
    again = run_arm(ENTRY, Arm("own", (14, 25), halfway(0.5)), 0, **options)
    assert again.seconds == first.seconds  # it was read
    with pytest.raises(OutputExistsError, match="made with another arm"):
        run_arm(ENTRY, Arm("own", (14, 25), halfway(0.7)), 0, **options)
    none = run_arm(ENTRY, Arm("none", (14, 25), halfway(0.0)), 0, **options)
    plain = run_arm(ENTRY, Arm("still", ()), 0, **options)
    assert measured(none)[:3] == measured(plain)[:3]
    assert measured(first)[:3] != measured(plain)[:3]


def test_a_stopped_run_goes_on_with_the_same_forecaster_only(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_CHECKPOINT", -1.0)
    monkeypatch.setattr(running, "_ADVANCE", 1)
    began: list[int] = []

    def stop(done: int, total: int) -> None:
        began.append(done)
        if done == 30:
            raise InterruptedError

    options: dict[str, Any] = {"data": digits_of(images), "folder": tmp_path}
    for part, expected in ((0.5, 1), (0.5, 30), (0.7, 1)):
        began.clear()
        with pytest.raises(InterruptedError):
            run_arm(ENTRY, Arm("own", (14,), halfway(part)), 0, **options, progress=stop)
        assert began[0] == expected


def test_identities() -> None:
    assert identity("introspection-mnist") == "introspection-mnist"
    known = [
        *(LinearFit(), LinearFit(horizon=3), halfway(0.5), halfway(0.6)),
        *(GaussianNoise(0.1), GaussianNoise(0.1, random_state=1)),
    ]
    assert len({identity(forecaster) for forecaster in known}) == len(known)
    assert identity(halfway(0.5)) == identity(known[2])
    with pytest.raises(UnfittedError, match="not fitted"):
        identity(Halfway())


def test_a_path_is_no_arm_s_forecaster(tmp_path: Path, images: Path) -> None:
    path = str(save(LinearFit(), tmp_path / "mine.safetensors"))
    with pytest.raises(UsageError, match=r"got a file, load\("):
        run_arm(ENTRY, Arm("own", (14,), path), 0, data=digits_of(images), folder=tmp_path / "r")
    with pytest.raises(InputNotFoundError):
        run_arm(ENTRY, Arm("own", (14,), "nope"), 0, data=digits_of(images), folder=tmp_path / "r")


def test_the_documentation_s_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An experiment, a network, data and a forecaster, none of which weightcast knows."""
    from weightcast.experiments.document import write_document

    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"^```python\n(.*?)^```", DOC.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.setitem(NETWORKS, "digits-mlp", None)  # so that it is removed again
    exec(compile(program, str(DOC), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [arm, seed] for seed in "01" for arm in ("plain", "jumps", "mine")
    ]
    assert all(float(line.split()[-1]) > 0.8 for line in lines)
    assert "mine" in write_document("own-results", "own-docs").read_text()


def test_the_documentation_s_commands_are_understood(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(LinearFit(), "mine.safetensors")
    lines = re.findall(r"^\$ weightcast (reproduce .*)$", DOC.read_text(), re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line.replace("/data/mnist", str(images)))
        assert main([*words, "--dry-run"]) == 0
