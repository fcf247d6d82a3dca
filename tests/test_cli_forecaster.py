"""The commands on forecasters: fit, evaluate and compare."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from support import Pipeline, eventually

from weightcast.cli.main import main
from weightcast.predictor import (
    SklearnForecaster,
    evaluate_history,
    load,
    load_with_card,
    read_header,
)
from weightcast.predictor.models import MODELS
from weightcast.store import Dataset, History

RICH = "1,0.5,mean:40/10,slope:40/10,scale,step,ahead"


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def rich(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two runs, of two horizons and a window."""
    path = tmp_path_factory.mktemp("rich") / "rich.zarr"
    words = f"--samples 2000 --context {RICH} --horizon 2,+50 --scheduler synchronous"
    assert (
        run("dataset", "build", pipeline.history, pipeline.other, "-o", path, *words.split()) == 0
    )
    return path


# ---- fit


def test_the_card_says_where_a_forecaster_comes_from(pipeline: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    words = ("--set", "hidden=3", "--set", "steps=20", "--set", "patience=2", "--seed", 7)
    assert run("fit", pipeline.dataset, "-o", out, *words) == 0
    forecaster, card = load_with_card(out)
    assert (forecaster.hidden, forecaster.random_state) == (3, 7)  # type: ignore[attr-defined]
    (dataset,) = card["datasets"]
    opened = Dataset(pipeline.dataset)
    assert dataset["path"] == str(pipeline.dataset)
    assert dataset["recipe"] == json.loads(json.dumps(opened.recipe.to_json()))
    assert dataset["histories"][0]["digest"] == opened.origins[0].digest
    assert card["options"] == {"hidden": 3, "steps": 20, "patience": 2}
    assert (card["model"], card["seed"]) == ("introspection", 7)
    assert "0.1 of the weights" in card["held_out"]
    assert {e["by"] for e in card["errors"]} == {"stratum", "kind", "t", "all"}
    assert card["date"].startswith("20")
    assert "torch" in read_header(out).versions
    assert not (tmp_path / "f.safetensors.training").exists()


def test_part_of_the_columns_is_enough(rich: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "line.safetensors"
    assert (
        run("fit", rich, "-o", out, "--model", "linear-fit", "--context", "1,0.5,step,ahead") == 0
    )
    assert load(out).context_ == (1.0, 0.5, "step", "ahead")
    assert run("evaluate", out, rich, pipeline.other, "--horizon", "+7") == 2  # rich has its own
    assert run("evaluate", out, pipeline.other, "--horizon", "+7") == 0


def test_a_regressor_is_kept_as_skops(pipeline: Pipeline, tmp_path: Path) -> None:
    pytest.importorskip("skops")
    out = tmp_path / "ridge.skops"
    assert run("fit", pipeline.dataset, "-o", out, "--model", "ridge", "--set", "alpha=0.5") == 0
    forecaster = load(out)
    assert isinstance(forecaster, SklearnForecaster)
    assert forecaster.regressor.alpha == 0.5
    assert run("evaluate", out, pipeline.other) == 0


def test_all_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--list-models") == 0
    shown = capsys.readouterr().out
    for name, model in MODELS.items():
        assert f"{name}: {model.summary}" in shown
    assert "    hidden=40" in shown


def test_the_curve_is_drawn(pipeline: Pipeline, tmp_path: Path) -> None:
    out, picture = tmp_path / "f.safetensors", tmp_path / "curve.svg"
    words = ("--set", "steps=40", "--set", "validate_every=10", "--plot", picture)
    assert run("fit", pipeline.dataset, "-o", out, *words) == 0
    text = picture.read_text()
    assert "<!-- validation -->" in text
    assert "<!-- last value, validation -->" in text


def test_a_model_without_a_curve_is_fitted_all_the_same(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "f.safetensors", tmp_path / "curve.svg"
    words = ("-o", out, "--model", "last-value", "--plot", picture, "--resume")
    assert run("fit", pipeline.dataset, *words) == 0
    shown = capsys.readouterr().err
    assert "LastValue has none: no " in shown
    assert "no state of an interrupted training in " in shown
    assert out.exists()
    assert not picture.exists()


def test_an_early_stop_is_told(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.safetensors"
    words = ("--set", "patience=2", "--set", "validate_every=10", "--set", "learning_rate=0.05")
    assert run("fit", pipeline.dataset, "-o", out, *words) == 0
    steps = load_with_card(out)[1]["steps_taken"]
    assert 20 < steps < 30_000
    shown = capsys.readouterr().out
    told = f"stopped after {steps:,} of 30,000 steps: no better since step {steps - 20:,}, which is"
    assert told in shown
    assert "linear fit: the line through 1,0.7,0.4,0\n" in shown
    assert run("fit", pipeline.dataset, "-o", out, "--set", "steps=20", "--overwrite") == 0
    assert "stopped after" not in capsys.readouterr().out


def test_types_that_need_trust_are_told(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skops")
    out = tmp_path / "g.skops"
    words = ("--model", "gradient-boosting", "--set", "max_iter=2")
    assert run("fit", pipeline.dataset, "-o", out, *words) == 0
    (told,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("to load it: ")]
    trust = told.removeprefix("to load it: ").split()
    assert run("card", out) == 0
    assert f"run.zarr {' '.join(trust)}\n" in capsys.readouterr().out
    assert run("evaluate", out, pipeline.other, "--points", 1) != 0
    assert run("evaluate", out, pipeline.other, "--points", 1, *trust) == 0


@pytest.mark.parametrize("model", ["introspection", "wnn"])
def test_a_training_that_was_interrupted_goes_on(
    model: str,
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file is that of an uninterrupted training, byte for byte."""
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    words = ("--model", model, "--set", "steps=1600", "--set", "validate_every=300", "--seed", 3)
    assert run("fit", pipeline.dataset, "-o", whole, *words) == 0
    kept = MODELS[model].kind.fit
    with monkeypatch.context() as patch:

        def interrupted(self: Any, *args: Any, progress: Any, **options: Any) -> Any:
            def stop(what: str, done: int, total: int) -> None:
                if done >= 500:
                    raise KeyboardInterrupt

            return kept(self, *args, progress=stop, **options)

        patch.setattr(MODELS[model].kind, "fit", interrupted)
        assert run("fit", pipeline.dataset, "-o", cut, *words) == 130
    shown = capsys.readouterr().err.strip().splitlines()
    assert shown[-1].startswith("weightcast: interrupted")
    assert "--resume" in shown[-1]
    assert "cut.safetensors.training" in shown[-1]
    assert not cut.exists()
    assert run("fit", pipeline.dataset, "-o", cut, *words) == 2
    refused = capsys.readouterr().err
    assert "--resume" in refused
    assert "--overwrite" in refused
    assert run("fit", pipeline.dataset, "-o", cut, *words[:-1], 4, "--resume") == 2  # another seed
    assert "seed" in capsys.readouterr().err
    assert run("fit", pipeline.dataset, "-o", cut, *words, "--resume") == 0
    assert cut.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [cut.name, whole.name]


def test_overwrite_begins_anew(pipeline: Pipeline, tmp_path: Path) -> None:
    state = tmp_path / "f.safetensors.training"
    state.write_bytes(b"of something else")
    words = ("-o", tmp_path / "f.safetensors", "--set", "steps=5")
    assert run("fit", pipeline.dataset, *words, "--resume") == 1  # it is no state
    assert run("fit", pipeline.dataset, *words, "--overwrite") == 0
    assert not state.exists()


def test_a_state_is_not_lost_to_a_model_that_has_none(pipeline: Pipeline, tmp_path: Path) -> None:
    state = tmp_path / "f.safetensors.training"
    state.write_bytes(b"of a network")
    words = ("-o", tmp_path / "f.safetensors", "--model", "last-value", "--resume")
    assert run("fit", pipeline.dataset, *words) == 2
    assert state.read_bytes() == b"of a network"


def test_ctrl_c_ends_with_one_line(pipeline: Pipeline, tmp_path: Path) -> None:
    """In a real process, which has a state to go on from."""
    out = tmp_path / "f.safetensors"
    code = (
        "import sys\nimport weightcast.predictor.training as training\n"
        "from weightcast.cli.main import main\n"
        "training._SECONDS = 0.0\n"  # a state after every stretch of steps
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "fit", str(pipeline.dataset), "-o", str(out)]
    command += ["--set", "steps=1000000"]
    environment = {**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
    errors = tmp_path / "stderr"
    with errors.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdout=stderr, env=environment)
        try:
            assert eventually(lambda: (tmp_path / "f.safetensors.training").exists())
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.wait()
    lines = errors.read_text().strip().splitlines()
    assert [line for line in lines if "weightcast" in line] == [lines[-1]]
    assert lines[-1].startswith("weightcast: interrupted: ")
    assert "Traceback" not in errors.read_text()
    assert not out.exists()


# ---- evaluate


def test_evaluate_leaves_out_what_was_learned_from(
    pipeline: Pipeline, rich: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the very dataset of the fit; another one is measured as a whole."""

    def count(*words: object) -> int:
        capsys.readouterr()
        assert run("evaluate", out, *words, "--by", "stratum", "--json") == 0
        return int(json.loads(capsys.readouterr().out)[-1]["count"])

    out, dataset = tmp_path / "f.safetensors", Dataset(pipeline.dataset)
    words = ("--model", "linear-fit", "--hold-out", 0.3, "--seed", 5)
    assert run("fit", pipeline.dataset, "-o", out, *words) == 0
    held = len(dataset.split(0.3, 5)[1])
    assert count(pipeline.dataset) == held < len(dataset)
    assert count(pipeline.dataset, "--all-samples") == len(dataset)
    build = ("dataset", "build", pipeline.history, "-o", "b.zarr", "--samples", 300, "--seed", 9)
    assert run(*build) == 0
    assert count("b.zarr") == 300


def test_a_mixture_of_horizons_is_warned_of(
    rich: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "last-value", "--context", "1,step")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("fit", rich, "-o", tmp_path / "f.safetensors", *words) == 0
    assert "warning: the samples have several horizons" in capsys.readouterr().err
    words = ("--model", "last-value", "--context", "1,ahead")
    assert run("fit", rich, "-o", tmp_path / "g.safetensors", *words) == 0


def test_evaluate_takes_several_data_and_names(
    pipeline: Pipeline, rich: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--points", 2, "--horizon", "+30,+60", "--by", "horizon", "--json")
    out = "line.safetensors"
    window = ("--set", "window=40", "--set", "stride=10")
    assert run("fit", rich, "-o", out, "--model", "line", *window) == 0
    capsys.readouterr()
    assert run("evaluate", out, pipeline.history, pipeline.other, *words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["data"], r["group"]) for r in rows] == list(
        itertools.product(
            [str(pipeline.history), str(pipeline.other)], ["to t+30", "to t+60", "all"]
        )
    )
    expected = evaluate_history(
        load(out), History(pipeline.other), points=2, horizon=("+30", "+60"), by=["horizon"]
    )
    assert rows[3:] == [{"data": str(pipeline.other)} | e.to_json() for e in expected]
    assert run("evaluate", "linear-fit", pipeline.other) == 0
    shown = capsys.readouterr().out
    assert "linear-fit on" in shown
    assert "bias" in shown


def test_evaluate_says_which_samples_are_of_the_horizon(
    rich: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--samples", 300, "--context", RICH, "--scheduler", "synchronous")
    of_runs = [o.path for o in Dataset(rich).origins]
    assert run("dataset", "build", *of_runs, "-o", "a.zarr", *words) == 0
    fitted = ("--model", "last-value", "--context", "1")
    assert run("fit", "a.zarr", "-o", "f.safetensors", *fitted) == 0
    capsys.readouterr()
    assert run("evaluate", "f.safetensors", rich, "--by", "t") == 0
    shown, samples = " ".join(capsys.readouterr().out.split()), Dataset(rich)
    used = int((samples.horizon[:] == 0).sum())
    assert f", {used:,} of {len(samples):,}: those to 2t" in shown
    assert shown.count("linear fit: the line through the window 40/10") == 1


def test_evaluate_shows_a_dash_for_what_is_not_known(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--samples", 300, "--context", "slope:20/10,ahead", "--scheduler", "synchronous")
    assert run("dataset", "build", pipeline.history, "-o", "d.zarr", *words) == 0
    fitted = ("--set", "steps=5", "--set", "target=value")
    assert run("fit", "d.zarr", "-o", "f.safetensors", *fitted) == 0
    capsys.readouterr()
    assert run("evaluate", "f.safetensors", "d.zarr") == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.strip().startswith("all ")]
    assert line.split()[-3:] == ["-", "-", "-"]
    assert run("evaluate", "f.safetensors", "d.zarr", "--json") == 0
    last = json.loads(capsys.readouterr().out)[-1]
    assert (last["last_value"], last["linear_fit"], last["skill"]) == (None, None, None)


def test_evaluate_draws(pipeline: Pipeline, rich: Path, tmp_path: Path) -> None:
    words = (pipeline.forecaster, pipeline.other, pipeline.dataset, "--plot", "errors.png")
    assert run("evaluate", *words, "--points", 3, "--by", "kind") == 0
    first = (tmp_path / "errors.png").stat().st_size
    assert first > 20_000
    assert run("evaluate", *words) == 2
    assert run("evaluate", *words, "--overwrite") == 0


# ---- compare


def test_compare_ranks_and_says_what_is_left_out(
    rich: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "ridge", "--model", "line", "--set", "line.window=40", "--set")
    picture = tmp_path / "ranks.png"
    assert run("compare", rich, *words, "line.stride=10", "--plot", picture) == 0
    shown = capsys.readouterr().out
    assert "2 folds by run, 2,000 samples" in shown
    for name in ("ridge", "line", "last-value", "linear-fit"):
        assert f"  {name} " in shown
    assert picture.stat().st_size > 9999
    assert run("compare", rich, *words, "line.stride=10", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["models"][0]["name"] in shown
    options = {m["name"]: m["options"] for m in document["models"]}
    assert options["line"] == {"window": 40, "stride": 10}
    assert (document["by"], document["runs"], document["folds"]) == ("run", 2, 2)


def test_compare_of_one_run_says_so(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", pipeline.dataset, "--model", "ridge", "--folds", 3) == 0
    shown = capsys.readouterr().out
    assert "3 folds by weight" in shown
    assert "one run" in shown


# ---- all of them


@pytest.mark.parametrize("command", ["fit", "evaluate", "compare"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\nfrom weightcast.cli.main import main\n"
        f"assert main([{command!r}, '--help']) == 0\n"
        "heavy = {'torch', 'sklearn', 'numpy', 'zarr', 'matplotlib', 'rich', 'dask', 'json'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"weightcast {command}" in done.stdout
