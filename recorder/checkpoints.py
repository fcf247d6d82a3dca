"""Checkpoint files: reading them safely, and finding the model's tensors in them.

::

    file  --load-->  document                    --find_state_dict-->  tensors
                     {"epoch": 3, "model": ...}                        module.fc.weight
                                                 --plain_names-->      fc.weight

No code in a file is ever run: it is safetensors, or torch.save loaded with ``weights_only=True``.
"""

from __future__ import annotations

import json
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from weightcast.store import FormatError, InputNotFoundError, UsageError

INDEX = ".index.json"  # of a model in several files, as Transformers writes them
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
_AVERAGED = "n_averaged"  # beside the wrapped names of torch.optim.swa_utils.AveragedModel
_REFUSED = re.compile(r"Unsupported global: GLOBAL (\S+) was not an allowed")

State = dict[str, torch.Tensor]


def load_checkpoint(path: Path, *, lazy: bool = False) -> tuple[Any, dict[str, str] | None]:
    """Read a checkpoint file, without running any code in it.

    Parameters
    ----------
    path : Path
        By its suffix a safetensors file, or the index of a model in several files
        (``model.safetensors.index.json``); any other is a file of ``torch.save``.
    lazy : bool
        Map the file into memory where its form allows, so that only the tensors that are used are
        read. They are then only good while the file stays as it is.

    Returns
    -------
    document : any
        What it holds.
    notes : dict of str to str, or None
        What a safetensors file says of itself.

    Raises
    ------
    InputNotFoundError
        If there is no such file.
    FormatError
        If it is not a checkpoint, or needs code to be loaded.
    """
    if not path.is_file():
        raise InputNotFoundError(f"no checkpoint {path}: give a file of torch.save or safetensors")
    if path.name.endswith(INDEX):
        return _load_shards(path, lazy), None
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return load_file(path), file.metadata()
        return _torch_load(path, lazy), None
    except OSError:
        raise
    except Exception as error:  # a file of anything makes the unpickler raise anything
        refused = _REFUSED.search(str(error))
        if refused:
            raise FormatError(
                f"{path} needs code to be loaded, {printable(refused[1])}, and weightcast reads "
                "tensors and plain values only: if you trust the file, load it in a program of "
                "your own with weights_only=False, and save its state_dict alone"
            ) from error
        raise FormatError(
            f"{path} is not a checkpoint: it must be a safetensors file, or one of torch.save that "
            f"loads with weights_only=True ({type(error).__name__})"
        ) from error


def _torch_load(path: Path, lazy: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of odd pickles before it refuses them
        if lazy:
            with suppress(Exception):  # an older or a compressed file: it can only be read whole
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return torch.load(path, map_location="cpu", weights_only=True)


def _load_shards(index: Path, lazy: bool) -> State:
    """The tensors of a model in several files, in the order of its index."""
    places = read_json(index).get("weight_map")
    named = isinstance(places, dict) and all(isinstance(s, str) for s in places.values())
    if not isinstance(places, dict) or not named:
        raise FormatError(f"{index} is not an index of shards: it has no weight_map of file names")
    shards: dict[str, Any] = {}
    for shard in dict.fromkeys(places.values()):
        # a name from a file becomes a path only here
        if Path(shard).name != shard or shard in ("", "..") or shard.endswith(INDEX):
            raise FormatError(f"{index} must name files beside it: it names {shard!r}")
        shards[shard], _ = load_checkpoint(index.with_name(shard), lazy=lazy)
    state = {}
    for name, shard in places.items():
        held = shards[shard]
        tensor = held.get(name) if isinstance(held, dict) else None
        if not isinstance(tensor, torch.Tensor):
            raise FormatError(f"{index} is damaged: there is no tensor {name!r} in {shard}")
        state[name] = tensor
    return state


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file that may hold anything.

    Raises
    ------
    FormatError
        If it holds something else.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise FormatError(f"{path} must hold a JSON object: it holds {type(document).__name__}")
    return document


def save_checkpoint(document: Any, path: Path, notes: dict[str, str] | None = None) -> None:
    """Write a checkpoint file: safetensors, with its notes, by the suffix; else by torch.save."""
    if path.suffix != ".safetensors":
        torch.save(document, path)
        return
    # its own contiguous copy of each: tied tensors share memory, which the format does not have
    tensors = {
        name: t.detach().clone(memory_format=torch.contiguous_format)
        for name, t in document.items()
    }
    save_file(tensors, path, metadata=notes)


def find_state_dict(document: Any, key: str | None, path: object) -> State:
    """Find a model's tensors in what a checkpoint holds.

    Parameters
    ----------
    document : any
        As `load_checkpoint` gave it.
    key : str or None
        Where it keeps the model's ``state_dict``. By default it is one itself, or has it under
        ``state_dict``, ``model_state_dict``, ``model`` or ``net``.
    path : object
        For the messages only.

    Raises
    ------
    UsageError
        If it has no such key.
    FormatError
        If there are no tensors by name.

    Examples
    --------
    >>> find_state_dict({"epoch": 3, "model": {"w": torch.zeros(1)}}, None, "in.pt")
    {'w': tensor([0.])}
    """
    if not isinstance(document, dict):
        raise FormatError(f"{path} must hold a dict of tensors: it holds {type(document).__name__}")
    if key is not None and key not in document:
        raise UsageError(f"{path} has no key {key!r}: it has {', '.join(map(str, document))}")
    usual = [k for k in _USUAL_KEYS if isinstance(document.get(k), dict)]
    found = document[key] if key is not None else document[usual[0]] if usual else document
    entries = found if isinstance(found, dict) else {}
    tensors = {k: v for k, v in entries.items() if isinstance(v, torch.Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise FormatError(
            f"{path} has no tensors by name where a state_dict is expected: name the place with "
            f"--key; it has {', '.join(map(str, document))}"
        )
    return tensors


def unwrapped(state: State, wanted: set[str]) -> State:
    """The tensors under the wanted names: a wrapper puts its prefix before all of them."""
    while not wanted <= state.keys():
        inner = {n.split(".", 1)[1]: t for n, t in state.items() if n.startswith(_PREFIXES)}
        if not inner:
            break
        state = inner
    return state


def plain_names(state: State) -> tuple[State, str]:
    """The tensors under the plain model's names, and the prefix that a wrapper had put there.

    Nothing says what the plain names are: a prefix goes if all names have it. The count of an
    averaged model goes with it.

    Examples
    --------
    >>> plain_names({"module._orig_mod.w": torch.zeros(1)})
    ({'w': tensor([0.])}, 'module._orig_mod.')
    >>> plain_names({"module.w": torch.zeros(1), "w": torch.ones(1)})[1]
    ''
    """
    stripped = ""
    while names := state.keys() - {_AVERAGED}:
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in names)), None)
        if prefix is None:
            break
        state = {n.removeprefix(prefix): t for n, t in state.items() if n in names}
        stripped += prefix
    return state, stripped


def printable(text: object) -> str:
    r"""Text from a file or of a file's name, safe to print on one line.

    Examples
    --------
    >>> printable("model\n1.pt")
    'model?1.pt'
    """
    return "".join(c if c.isprintable() else "?" for c in str(text))
