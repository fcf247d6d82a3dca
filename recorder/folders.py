"""Finding checkpoints in folders as people and libraries leave them.

::

    ckpt/model_100.pt  model_200.pt  ...                   a file is a checkpoint
    ckpt/epoch=3-step=4000.ckpt                            Lightning
    out/checkpoint-500/model.safetensors                   Transformers: a folder is a checkpoint
    out/checkpoint-500/model.safetensors.index.json        the same in several files
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from weightcast.recorder.checkpoints import INDEX, printable
from weightcast.store import InputNotFoundError, UsageError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_MODEL_FILES = tuple(
    f"{name}{end}"
    for name in ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors")
    for end in ("", INDEX)
)
_SHARD = re.compile(r".+-[0-9]{5}-of-[0-9]{5}\.[a-z]+")


@dataclass(frozen=True)
class Found:
    """A checkpoint on disk.

    Attributes
    ----------
    path : Path
        The file to load: the model's, or the index of its shards.
    name : str
        Of the file without its suffix, or of the folder that is a checkpoint: what numbers it.
    label : str
        What it is called in messages.
    """

    path: Path
    name: str
    label: str

    @property
    def is_folder(self) -> bool:
        """Whether a whole folder is this checkpoint."""
        return self.path.name in _MODEL_FILES


def find_checkpoints(paths: Iterable[str | Path]) -> tuple[list[Found], list[str]]:
    """Find the checkpoints that files and folders hold.

    Parameters
    ----------
    paths : iterable of str or Path
        Files are checkpoints. A folder is one if it holds a model as Transformers saves it, and
        has no such folder in itself; else those folders in it are, or if there are none, its files
        by their suffix. Hidden files, and what lies deeper, do not count.

    Returns
    -------
    found : list of Found
        Each file once, in no order that means anything.
    left : list of str
        Files that look like checkpoints, beside the folders that are.

    Raises
    ------
    InputNotFoundError
        If a path is not there, or holds none.
    UsageError
        If a file is a part of a checkpoint only.
    """
    found: dict[Path, Found] = {}
    left: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputNotFoundError(f"no checkpoints {path}: give files, or folders of them")
        inside = _in_folder(path) if path.is_dir() else ([_as_found(path)], [])
        found |= {f.path.resolve(): f for f in inside[0]}
        left += inside[1]
    if not found:
        raise InputNotFoundError("no checkpoints were given: name files, or folders of them")
    return list(found.values()), left


def _in_folder(folder: Path) -> tuple[list[Found], Sequence[str]]:
    entries = sorted(e for e in folder.iterdir() if not e.name.startswith("."))
    inner = [model for e in entries if e.is_dir() and (model := _model_in(e))]
    files = [e for e in entries if e.is_file() and e.suffix in SUFFIXES]
    if inner:
        return [_as_found(model) for model in inner], [printable(f) for f in files]
    own = _model_in(folder)
    if own:
        return [_as_found(own)], []
    if not files:
        raise InputNotFoundError(
            f"no checkpoints in {folder}: it must hold files {', '.join(SUFFIXES)}, or folders "
            f"with a {' or '.join(_MODEL_FILES[0::2])}"
        )
    return [_as_found(file) for file in files], []


def _model_in(folder: Path) -> Path | None:
    return next((folder / name for name in _MODEL_FILES if (folder / name).is_file()), None)


def _as_found(path: Path) -> Found:
    if _SHARD.fullmatch(path.name):
        raise UsageError(
            f"{path} is one of several files of a checkpoint: give its folder, with its {INDEX}"
        )
    if path.name in _MODEL_FILES:
        return Found(path, path.resolve().parent.name, printable(path.parent))
    name = path.stem if path.suffix in SUFFIXES else path.name
    return Found(path, name, printable(path))
