"""What a network may have in it when it trains from step k on, and putting it there.

::

    recorded   rewound: step k    initial: step 0
    perturbed  step k: signs, shuffle-layer, shuffle-filter, shuffle-global, noise
    trained    k steps of another task: random labels, rotation
               the same with the mask held: supervised, random labels, rotation
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weightcast.apply import perturb, rewind
from weightcast.apply.masking import hold
from weightcast.experiments.arm_run import Run, evaluate
from weightcast.experiments.batches import seed_of
from weightcast.experiments.starts import PRETEXTS

Mask = Mapping[str, torch.Tensor]

TESTED = 1000  # images that say how well another task was learned
_PERTURBING = 3  # in the key of what a perturbation draws


@dataclass(frozen=True)
class Start:
    """A way to begin at step k.

    Attributes
    ----------
    name : str
        For a reader, and unique: "noise 0.5".
    kind : str
        "rewound", "initial", or a key of `apply.KINDS` or of `starts.PRETEXTS`.
    scale : float
        Of noise.
    held : bool
        Whether the mask is held while another task is trained: of sparse networks only.
    """

    name: str
    kind: str
    scale: float = 1.0
    held: bool = False

    @property
    def trains(self) -> bool:
        """Whether another task is trained for k steps before."""
        return self.kind in PRETEXTS


REWOUND = Start("rewound", "rewound")
INITIAL = Start("initial", "initial")
SUPERVISED = Start("supervised, sparse", "supervised", held=True)
NOISES = tuple(Start(f"noise {scale:g}", "noise", scale) for scale in (0.5, 1.0, 2.0))
SHUFFLES = tuple(
    Start(f"shuffle {scope}", f"shuffle-{scope}") for scope in ("filter", "layer", "global")
)
SIGNS = Start("signs", "signs")
PERTURBED = (SIGNS, *SHUFFLES, *NOISES)
OTHERS = (Start("random labels", "random labels"), Start("rotation", "rotation"))
HELD = (SUPERVISED, *(Start(f"{o.name}, sparse", o.kind, held=True) for o in OTHERS))
STARTS = (REWOUND, INITIAL, *PERTURBED, *OTHERS, *HELD)


@dataclass(frozen=True)
class Begun:
    """What a start did to the weights, of two or more dimensions and not pruned.

    Attributes
    ----------
    moved : float
        Euclidean distance from the recorded step k.
    change : float
        That of the recorded step k from step 0.
    learned : float or None
        Accuracy in the other task after its k steps: see `begin`.
    """

    moved: float
    change: float
    learned: float | None = None


def begin(run: Run, start: Start, k: int, history: Path, mask: Mask | None) -> Begun:
    """Put a start into the network of a run, which is at its initial weights.

    Parameters
    ----------
    run : Run
        Its network is written; pruned weights may be anything after this.
    start : Start
    k : int
        A recorded step.
    history : Path
        Of the dense run of the same seed.
    mask : mapping of str to bool Tensor, optional
        Of a sparse network.

    Returns
    -------
    Begun

    Notes
    -----
    Random labels are judged by the first `TESTED` training images, rotation by the first quarter as
    many test images, each in all four positions. After rotation the last layer is put back to its
    initial weights, as its classes were others. Another task has an optimizer of its own.
    """
    network = run.network
    first = _flat(network, mask)
    rewind(network, history, k)
    recorded = _flat(network, mask)
    learned = None
    if start.kind == "initial":
        rewind(network, history, 0)
    elif start.trains:
        learned = _pretrain(run, start, k, history, mask if start.held else None)
    elif start.kind != "rewound":
        seed = seed_of(run.seed, k, _PERTURBING)
        perturb(network, history, k, start.kind, seed=seed, scale=start.scale, mask=mask)
    moved = float((_flat(network, mask) - recorded).norm())
    return Begun(moved, float((recorded - first).norm()), learned)


def _pretrain(run: Run, start: Start, k: int, history: Path, mask: Mask | None) -> float:
    """Train the run's network on another task for k steps from its initial weights."""
    device = next(run.network.parameters()).device
    data = PRETEXTS[start.kind](run.data, run.seed)
    other = Run.begin(run.experiment, run.arm, run.seed, data, device=str(device))
    held: Any = hold(other.network, mask, other.optimizer) if mask is not None else nullcontext()
    with held:
        other.advance(k)
    task = data.task
    _, accuracy, _ = evaluate(other.network, task.validation_x[:TESTED], task.validation_y[:TESTED])
    run.network.load_state_dict(other.network.state_dict())
    if start.kind == "rotation":
        rewind(run.network, history, 0, include=last_layer(run.network), buffers=False)
    return accuracy


def last_layer(network: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of the last linear layer.

    Examples
    --------
    >>> last_layer(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    ('2.weight', '2.bias')
    """
    *_, (name, layer) = (n for n in network.named_modules() if isinstance(n[1], nn.Linear))
    return tuple(f"{name}.{own}" for own, _ in layer.named_parameters())


def _flat(network: nn.Module, mask: Mask | None) -> torch.Tensor:
    """The weights of two or more dimensions that are not pruned: float64 [n]."""
    parts = [
        p.detach().double()[mask[name].to(p.device)]
        if mask is not None and name in mask
        else p.detach().double().flatten()
        for name, p in network.named_parameters()
        if p.dim() > 1
    ]
    return torch.cat(parts)
