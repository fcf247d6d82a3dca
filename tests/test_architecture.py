"""The import rules of DESIGN.md section 2, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "store": {"store"},
    "recorder": {"recorder", "store"},
    "predictor": {"predictor", "store"},
    "apply": {"apply", "predictor", "store", "recorder"},
    "experiments": {"experiments", "apply", "predictor", "recorder", "store"},
    "cli": {"cli", "experiments", "apply", "predictor", "recorder", "store"},
}
MODULES = [path for folder in ALLOWED for path in sorted((ROOT / folder).glob("*.py"))]


def imported(path: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a file imports, anywhere or at import time only."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_import_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_folders_import_one_way(path: Path) -> None:
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("weightcast.")}
    assert ours <= ALLOWED[path.parent.name]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_heavy_libraries_stay_in_their_place(path: Path) -> None:
    top = {name.split(".")[0] for name in imported(path)}
    if path.parent.name == "store":
        assert "torch" not in top
    if path.parent.name != "store" or path.stem not in ("scheduling", "pools", "client"):
        assert not {"dask", "distributed"} & top


def test_apply_takes_only_what_runs_and_finds_models_from_recorder() -> None:
    """What a jump counts and selects by, how scripts run, and how a checkpoint file is read."""
    names = {n for p in (ROOT / "apply").glob("*.py") for n in imported(p) if "recorder" in n}
    assert names <= {
        "weightcast.recorder.checkpoints",
        "weightcast.recorder.distributed",
        "weightcast.recorder.finding",
        "weightcast.recorder.hooks",
        "weightcast.recorder.recording",
        "weightcast.recorder.running",
        "weightcast.recorder.schedule",
        "weightcast.recorder.script",
        "weightcast.recorder.selection",
        "weightcast.recorder.step",
    }


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda p: p.stem)
def test_commands_import_only_click_before_they_run(path: Path) -> None:
    light = {"__future__", "click", "collections", "contextlib", "importlib", "sys", "typing"}
    light |= {"warnings"}
    for name in imported(path, at_import_only=True):
        assert name.split(".")[0] in light or name.startswith("weightcast.cli")
