"""From an experiment's entry to what trains: the network, its optimizer and learning rates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from weightcast.experiments import image_networks, networks, vision
from weightcast.experiments.experiment import Arm, Experiment, Updates
from weightcast.store import UsageError

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "mnist1": networks.mnist1,
    "mnist2": networks.mnist2,
    "mnist3": networks.mnist3,
    "mnist4": networks.Mnist4,
    "fm16": networks.fm16,
    "lenet": networks.lenet,
    "cifar1": vision.cifar1,
    "alexnet1": vision.alexnet1,
    "inception1": vision.inception1,
    "alexnet-cifar": image_networks.alexnet_cifar,
    "vgg11": image_networks.vgg11,
    "vgg16": image_networks.vgg16,
    "resnet18": image_networks.resnet18,
    "resnet20": image_networks.resnet20,
}

RISE = 0.3  # of a one-cycle schedule, in which the learning rate rises to its peak


def network_of(experiment: Experiment, classes: int, seed: int) -> nn.Module:
    """The experiment's network, its initial weights drawn from the seed."""
    return networks.seeded(lambda: NETWORKS[experiment.network](classes), seed)


def network_digest(experiment: Experiment, classes: int) -> str:
    """SHA-256 of the names and shapes of a network's tensors: its name may stand for another."""
    tensors = network_of(experiment, classes, 0).state_dict()
    told = [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def optimizer_of(updates: Updates, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a network's parameters, at its first learning rate."""
    kind: type[torch.optim.Optimizer] = getattr(torch.optim, updates.name)
    return kind(network.parameters(), lr=updates.lr, **updates.options)  # type: ignore[call-arg]


def schedule_of(
    experiment: Experiment, arm: Arm, optimizer: torch.optim.Optimizer, peak: float | None
) -> LRScheduler:
    """The learning rates of an arm: the paper's, or one cycle over the whole run.

    Momentum stays as it is: of the optimizers here, some have none.

    Raises
    ------
    UsageError
        If an arm with one cycle has no peak.
    """
    if arm.schedule == "own":
        return LambdaLR(optimizer, experiment.updates.rate.factor)
    if peak is None:
        raise UsageError(f"arm {arm.name!r} has a one-cycle schedule: give its peak")
    return OneCycleLR(
        optimizer,
        max_lr=peak,
        total_steps=experiment.steps + 1,
        pct_start=RISE,
        cycle_momentum=False,
    )
