"""The state of a training, in memory and as a file: safetensors, and JSON in its header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from weightcast.predictor.regimen import Regimen
from weightcast.store import FormatError, UsageError
from weightcast.store.output import replacing
from weightcast.store.reading import DAMAGE, one_line

STATE_VERSION = 1
_KEY = "weightcast-training"
_ADAM = ("exp_avg", "exp_avg_sq")

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class State:
    """A training after some steps; nothing in it changes as training goes on.

    Parameters
    ----------
    step : int
        Steps taken.
    network, best : dict of str to Tensor
        Weights now, and those of the smallest validation error, if they are kept.
    moments : dict of str to dict of str to Tensor
        Of Adam, by name of the weight.
    losses : float32 Tensor, shape (step,)
        The batches' errors, in units of 1 / factor.
    curve : list of (int, float, float)
        Step, training error since the point before, and validation error or NaN.
    keeps_best : bool
    """

    step: int
    network: Tensors
    moments: dict[str, Tensors]
    best: Tensors
    losses: torch.Tensor
    curve: list[tuple[int, float, float]]
    keeps_best: bool

    @classmethod
    def of(cls, network: nn.Module, *, keeps_best: bool) -> State:
        """The state before the first step."""
        weights = _copied(dict(network.named_parameters()))
        moments = {n: {k: torch.zeros_like(w) for k in _ADAM} for n, w in weights.items()}
        losses = torch.zeros(0, device="cpu")
        return cls(0, weights, moments, weights if keeps_best else {}, losses, [], keeps_best)

    def after(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, losses: torch.Tensor
    ) -> State:
        """The state some steps later."""
        named = dict(network.named_parameters())
        moments = {n: _copied({k: optimizer.state[w][k] for k in _ADAM}) for n, w in named.items()}
        return replace(
            self,
            step=self.step + len(losses),
            network=_copied(named),
            moments=moments,
            losses=torch.cat([self.losses, losses]),
        )

    def with_point(self, validation: float, factor: float) -> State:
        """The state with one more point of the curve, and with its weights if they are best."""
        since = self.step - (self.curve[-1][0] if self.curve else 0)
        training = float(self.losses[-since:].mean()) / factor
        curve = [*self.curve, (self.step, training, validation)]
        best = self.keeps_best and int(np.argmin([v for *_, v in curve])) == len(curve) - 1
        return replace(self, curve=curve, best=self.network if best else self.best)

    def finite(self, *, validated: bool) -> bool:
        """Whether all is finite that should be."""
        last = self.curve[-1][2] if self.curve and validated else 0.0
        tensors = (self.losses, *self.network.values())
        return bool(np.isfinite(last)) and all(bool(t.isfinite().all()) for t in tensors)

    def into(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put it where training goes on from."""
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(self.network[name])
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step), device="cpu"),
                    **_copied(self.moments[name]),
                }

    def tensors(self) -> Tensors:
        """All of it but the step, by name, for a file."""
        moments = {f"{k}.{n}": t for n, of in self.moments.items() for k, t in of.items()}
        best = {f"best.{name}": tensor.clone() for name, tensor in self.best.items()}
        curve = torch.tensor(self.curve, dtype=torch.float64, device="cpu").reshape(-1, 3)
        weights = {f"network.{name}": tensor for name, tensor in self.network.items()}
        return {**weights, **moments, **best, "curve": curve, "losses": self.losses}

    def filled(self, step: int, tensors: Tensors) -> State:
        """A state of the same network, from what `tensors` gave."""
        names = tuple(self.network)
        curve = [(int(s), e, v) for s, e, v in tensors["curve"].tolist()]
        return replace(
            self,
            step=step,
            network={n: tensors[f"network.{n}"] for n in names},
            moments={n: {k: tensors[f"{k}.{n}"] for k in _ADAM} for n in names},
            best={n: tensors[f"best.{n}"] for n in self.best},
            losses=tensors["losses"],
            curve=curve,
        )


def write_state(path: Path, about: dict[str, Any], state: State) -> None:
    """Write a state, in place of the one that stands there."""
    tensors = state.tensors()
    header = {
        "format": STATE_VERSION,
        "about": about,
        "step": state.step,
        "digest": _digest(tensors),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})


def read_state(path: Path, about: dict[str, Any], empty: State, regimen: Regimen) -> State | None:
    """Read the state that `write_state` wrote; None if there is none.

    Parameters
    ----------
    path : Path
    about : dict
        What it must agree with; JSON-able.
    empty : State
        The state of the same network before the first step.
    regimen : Regimen

    Raises
    ------
    FormatError
        If it is not a state, damaged, or of a newer format.
    UsageError
        If it is of another training.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            version, step, was = header["format"], header["step"], dict(header["about"].items())
            if version != STATE_VERSION:
                raise FormatError(f"it has format {version!r}, this one reads {STATE_VERSION}")
            differing = _differing(was, json.loads(json.dumps(about)))
            if not differing:
                tensors = _checked(file, step, empty, regimen)
                if header["digest"] != _digest(tensors):
                    raise FormatError("its digest is of other numbers")
                return empty.filled(step, tensors)
    except (SafetensorError, *DAMAGE, OSError) as error:
        raise FormatError(
            f"{path} is not a training state that can be gone on from: {one_line(error)}: remove "
            "it to begin anew"
        ) from error
    raise UsageError(
        f"{path} is the state of another training: {'; '.join(differing[:4])}: train with the same "
        "again, or remove it to begin anew"
    )


def _differing(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What two descriptions differ in, in words."""
    differing = [
        f"{name} was {was.get(name)!r:.60} and is {value!r:.60}"
        for name, value in now.items()
        if name not in was or was[name] != value
    ]
    return differing if was.keys() <= now.keys() else [*differing, "it has other options too"]


def _checked(file: Any, step: Any, empty: State, regimen: Regimen) -> Tensors:
    """The tensors of a file, if they are what a training of so many steps has."""
    if type(step) is not int or not 0 <= step <= regimen.steps:
        raise FormatError(f"its step is {step!r}")
    wanted = empty.tensors()
    shapes = {name: list(tensor.shape) for name, tensor in wanted.items()}
    shapes |= {"curve": [regimen.points(step), 3], "losses": [step]}
    found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    if found != shapes:
        raise FormatError(f"its tensors are {found!r:.60} and not {shapes!r:.60}")
    tensors = {name: file.get_tensor(name) for name in found}
    for name, tensor in tensors.items():
        numbers = tensor[:, :2] if name == "curve" else tensor
        if tensor.dtype != wanted[name].dtype or not numbers.isfinite().all():
            raise FormatError(f"its tensor {name!r} is of another dtype, or not finite")
    if tensors["curve"][:, 0].tolist() != [s for s in range(1, step + 1) if regimen.validates(s)]:
        raise FormatError("its curve is of other steps")
    return tensors


def _digest(tensors: Tensors) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].numpy().tobytes())
    return found.hexdigest()


def _copied(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
