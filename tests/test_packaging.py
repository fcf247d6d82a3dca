"""The package as it is installed: from the editable install and from a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]


def test_package_list_equals_folders() -> None:
    folders = {f"weightcast.{p.parent.name}" for p in ROOT.glob("*/__init__.py")}
    assert folders == set(PACKAGES)
    assert all((ROOT / p.split(".")[1] / "py.typed").exists() for p in PACKAGES)


def test_every_dependency_is_pinned() -> None:
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    optional = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(d for extra in optional for d in extra)]
    assert {d.split(">=")[0].lower() for d in wanted} <= pins


def test_editable_install_is_this_checkout() -> None:
    import weightcast.store

    assert Path(weightcast.store.__file__).parent == ROOT / "store"


@pytest.fixture(scope="module")
def wheel_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the unpacked wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        name = package.split(".")[1]
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    pretrained = source / "predictor" / "pretrained"
    pretrained.mkdir(exist_ok=True)
    (pretrained / "shipped-later.safetensors").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    install = [*pip, "install", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return target


def test_wheel_holds_every_module_and_nothing_generic(wheel_site: Path) -> None:
    top = {p.name for p in wheel_site.iterdir() if not p.name.endswith(".dist-info")}
    assert top <= {"weightcast", "bin"}
    for package in PACKAGES:
        name = package.split(".")[1]
        here = {p.name for p in (ROOT / name).iterdir() if p.name != "__pycache__"}
        there = {p.name for p in (wheel_site / "weightcast" / name).iterdir()}
        assert here <= there


def test_wheel_holds_the_pretrained_forecasters(wheel_site: Path) -> None:
    folder = Path("predictor", "pretrained")
    here = {p.name for p in (ROOT / folder).glob("*.safetensors")}
    there = {p.name for p in (wheel_site / "weightcast" / folder).iterdir()}
    assert there == here | {"shipped-later.safetensors"}


def test_wheel_imports_and_runs(wheel_site: Path, tmp_path: Path) -> None:
    program = (
        "import sys, importlib\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        f"for package in {PACKAGES!r}:\n"
        "    print(importlib.import_module(package).__file__)\n"
        "from weightcast.cli.main import main\n"
        "sys.exit(main(['--version']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel_site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *files, version = done.stdout.splitlines()
    assert all(file.startswith(str(wheel_site)) for file in files)
    assert version.endswith(PROJECT["project"]["version"])
