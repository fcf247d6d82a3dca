"""Rewinding: the weights of a recorded step, put back into a live model or a checkpoint.

::

    history   ... step K ...   --read whole, then matched by name-->   written in place
    mask      w: 1 0 1 1                                               w: K . K K
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from weightcast.apply.masks import Mask
from weightcast.apply.matching import MODEL, OpenCheckpoint
from weightcast.apply.putting import Chosen, RewindReport, put_back
from weightcast.recorder.checkpoints import State, load_checkpoint
from weightcast.recorder.selection import unwrap
from weightcast.store import FormatError, History, InputNotFoundError, UsageError
from weightcast.store.output import refuse_existing


def rewind(
    model: nn.Module,
    history: History | str | Path,
    step: int,
    *,
    mask: Mask | None = None,
    zero: bool = False,
    buffers: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> RewindReport:
    """Put the weights of a recorded step back into a live model, in place.

    Tensors stay the same objects, on their devices, in their dtypes and memory formats; optimizers,
    compiled modules and ``DistributedDataParallel`` go on with them. Of a DTensor every rank writes
    its own shard.

    Parameters
    ----------
    model : nn.Module
        Data-parallel, compiled and averaging wrappers are looked through.
    history : History, str or Path
    step : int
        A recorded step.
    mask : mapping of str to bool Tensor, or nn.Module with such a ``state_dict``, optional
        For parameters by name, in their shapes: only where it is True are weights put back, the
        others stay: those that were pruned stay 0. Tensors without a mask are put back whole.
    zero : bool
        Set weights where the mask is False to 0: the model need not have been pruned before.
    buffers : bool
        Put back recorded buffers too, such as BatchNorm statistics.
    include, exclude : sequence of str
        Globs over the names in the history, of parameters and buffers alike.

    Returns
    -------
    RewindReport

    Raises
    ------
    StepNotRecordedError
        Naming the recorded steps on both sides of it.
    ShapeError
        If names, shapes or dtypes of model or mask are not the history's.
    UsageError
        If the globs leave nothing, the model has no values yet, or there is no mask for `zero`.
    FormatError
        If the history is damaged.

    Notes
    -----
    Exact for lossless histories; of others `RewindReport.error` has the bound. bfloat16 and float16
    parameters are recorded as float32, and come back exactly. On an error nothing has changed.
    Memory: one snapshot of what is put back. The optimizer's state stays as it is. Rewinding to an
    early step under a mask is how Frankle et al. 2020 find sparse networks that train.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.recorder import Recorder
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with Recorder(model, path).attach(optimizer):
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> report = rewind(model, path, 0)
    >>> report.weights, round(report.changed, 3), report.error
    (3, 0.1, None)
    """
    history = history if isinstance(history, History) else History(history)
    named = tensors_of(model)
    chosen = Chosen(history, step, buffers, include, exclude)
    return put_back(chosen, named, MODEL, mask, zero=zero)


def tensors_of(model: nn.Module) -> State:
    """Parameters and buffers of a model by all their names, its wrappers looked through.

    Raises
    ------
    UsageError
        If it is no model, or has no values yet.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"give a torch.nn.Module to rewind: got a {type(model).__name__}")
    plain = unwrap(model)
    named: State = dict(plain.named_buffers(remove_duplicate=False))
    named |= dict(plain.named_parameters(remove_duplicate=False))
    if lazy := next((name for name, tensor in named.items() if is_lazy(tensor)), None):
        raise UsageError(
            f"a model to rewind must have its shapes: {lazy!r} is lazy: run one batch through the "
            "model first"
        )
    return named


def rewind_checkpoint(
    history: History | str | Path,
    step: int,
    checkpoint: str | Path,
    output: str | Path,
    *,
    key: str | None = None,
    mask: Mask | None = None,
    zero: bool = False,
    buffers: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> RewindReport:
    """Put the weights of a recorded step back into a checkpoint; all else in it stays.

    Parameters
    ----------
    history : History, str or Path
    step : int
        A recorded step.
    checkpoint, output : str or Path
        Files of ``torch.save`` or, by their suffix, safetensors.
    key : str, optional
        Where the checkpoint keeps the model's ``state_dict``. By default the checkpoint is one
        itself, or has it under ``state_dict``, ``model_state_dict``, ``model`` or ``net``.
    mask, zero, buffers, include, exclude
        As for `rewind`.
    overwrite : bool
        Replace a file that stands at `output`.

    Returns
    -------
    RewindReport

    Raises
    ------
    StepNotRecordedError, ShapeError, UsageError, FormatError
        As for `rewind`; FormatError also if the checkpoint is no such file: it is loaded with
        ``weights_only=True``.
    OutputExistsError
        If `output` is taken.
    """
    history = history if isinstance(history, History) else History(history)
    output = refuse_existing(output, overwrite=overwrite, kind="file", inputs=[history.path])
    chosen = Chosen(history, step, buffers, include, exclude)
    opened = OpenCheckpoint.load(checkpoint, output, key)
    report = put_back(chosen, opened.state, checkpoint, mask, zero=zero)
    opened.save()
    return report


def load_mask(path: str | Path) -> Mapping[str, torch.Tensor]:
    """Read a mask from a file of ``torch.save`` or safetensors: bool tensors by name.

    Raises
    ------
    InputNotFoundError, FormatError
        If there is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise InputNotFoundError(f"no mask {path}: give a file of torch.save or safetensors")
    document, _ = load_checkpoint(Path(path))
    if not isinstance(document, dict):
        raise FormatError(
            f"{path} must hold a mask, a dict of bool tensors by parameter name: it holds a "
            f"{type(document).__name__}"
        )
    for name, tensor in document.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.bool:
            got = getattr(tensor, "dtype", type(tensor).__name__)
            raise FormatError(
                f"{path} must hold a mask, a dict of bool tensors by parameter name: {name!r} is "
                f"{got}; weightcast prune writes one"
            )
    return document
