"""Documentation is tested: docstring examples, the README's code and commands, every --help."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support import TRAIN_PY

from weightcast.cli.main import cli, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FOLDERS = ("apply", "cli", "experiments", "predictor", "recorder", "store")
MODULES = [
    f"weightcast.{folder}.{module.name}"
    for folder in FOLDERS
    for module in pkgutil.iter_modules(importlib.import_module(f"weightcast.{folder}").__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL
    )
    assert result.failed == 0


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f != "cli"])
def test_public_names_are_documented(folder: str) -> None:
    package = importlib.import_module(f"weightcast.{folder}")
    for name in package.__all__:
        public = getattr(package, name)
        if inspect.isclass(public) or inspect.isfunction(public):
            assert public.__doc__, name


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command of the command line, as the words that call it."""
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, click.Group):
            found.extend(commands(command, (*path, name)))
    return found


COMMANDS = commands(cli)


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: weightcast")
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "zarr", "dask", "numpy", "sklearn", "rich", "matplotlib")
    program = (
        "import sys\n"
        "from weightcast.cli.main import main\n"
        f"for words in {[list(c) for c in COMMANDS]!r}:\n"
        "    assert main([*words, '--help']) == 0\n"
        f"print('HEAVY', [m for m in {heavy!r} if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("words", [c for c in COMMANDS if c != ("dataset",)], ids=" ".join)
def test_readme_shows_every_command(words: tuple[str, ...]) -> None:
    assert f"weightcast {' '.join(words)}" in README


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = blocks("python")
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) <= 30  # "about 20 lines", as the README says
    exec(compile(program, "README.md", "exec"), {})


def test_readme_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk through the command line, with a smaller sample and a shorter fit."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN_PY)
    lines = [line for block in blocks("console") for line in block.splitlines()]
    lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ weightcast")]
    assert {shlex.split(line)[1] for line in lines} >= {"record", "info", "fit", "jump"}
    assert main(["record", "-q", "-o", "other.zarr", "--", "train.py", "--seed", "1"]) == 0
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "demo":
            continue  # `make demo` runs it, and tests/test_experiments_demo.py its parts
        smaller = {"800000": "3000", "3000": "150", "1000": "150"}
        words = [smaller.get(word, word) for word in words]
        extra = {"fit": ["--set", "steps=200"]}.get(words[0], [])
        if words[0] == "jump":
            train = ["record", "-q", "-o", "again.zarr", "--", "train.py", "--save-at", "150"]
            assert main(train) == 0
        assert main([*words, *extra]) == 0, line


def test_a_forecaster_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of docs/forecasters.md prints what its comments say."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/forecasters.md").read_text()
    programs = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(programs[-1], "docs/forecasters.md", "exec"), {})
    part, weight = capsys.readouterr().out.split()
    assert float(part) == 0.5
    assert float(weight) == pytest.approx(-12.5, rel=1e-5)


def test_readme_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_ci_runs_the_readme_test_command() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "make test" in README
    assert "make demo" in README


def test_jumps_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code and the command of docs/jumps.md."""
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN_PY)
    text = (ROOT / "docs/jumps.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    known = {"torch": torch, "model": torch.nn.Linear(2, 1)}
    exec(compile(program, "docs/jumps.md", "exec"), known)
    assert known["optimizer"].jump_points == list(range(1000, 10_000, 1000))  # type: ignore[union-attr]
    (line,) = re.findall(r"^\$ weightcast (.*)$", text, re.MULTILINE)
    assert main(shlex.split(line)) == 0
