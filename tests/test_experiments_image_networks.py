"""Networks of CIFAR's size, and images as they are trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_experiments import write_images
from torch import nn

from weightcast.experiments import image_networks, images32
from weightcast.experiments.building import NETWORKS
from weightcast.experiments.image_networks import Biased, Residual
from weightcast.experiments.images32 import CIFAR, FASHION, Form, widened
from weightcast.experiments.loading import load_data
from weightcast.experiments.networks import seeded

NAMES = ("alexnet-cifar", "vgg11", "vgg16", "resnet18", "resnet20")


@pytest.mark.parametrize("name", NAMES)
def test_images_to_logits_and_every_parameter_is_trained(name: str) -> None:
    network = seeded(lambda: NETWORKS[name](7), seed=0)
    logits = network(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (image_networks.resnet18, [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        (image_networks.resnet20, [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
    ],
)
def test_a_resnet_halves_the_image_at_every_stage(
    build: Callable[[], nn.Sequential], shapes: list[tuple[int, ...]]
) -> None:
    x, seen = torch.randn(1, 3, 32, 32), []
    with torch.no_grad():
        for layer in build():
            x = layer(x)
            if isinstance(layer, Residual):
                seen.append(tuple(x.shape[1:]))
    assert list(dict.fromkeys(seen)) == shapes
    assert len(seen) == {4: 8, 3: 9}[len(shapes)]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_of_variance_two_over_fan_in_and_biases_zero(name: str) -> None:
    network = seeded(lambda: NETWORKS[name](10), seed=1)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            expected = (2 / layer.weight[0].numel()) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.2)
            assert layer.bias is None or not layer.bias.any()


def test_a_residual_block_adds_what_goes_in() -> None:
    block = Residual(4, 4, 1).eval()
    for parameter in block.body.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x.relu())


def test_a_convolution_with_biases_apart_has_the_same_values_and_gradients() -> None:
    apart, torch_own = Biased(3, 5, 3, stride=2, padding=1), nn.Conv2d(3, 5, 3, 2, 1)
    torch_own.load_state_dict(apart.state_dict())
    x = torch.randn(2, 3, 9, 9)
    for layer in (apart, torch_own):
        layer(x).square().sum().backward()
    torch.testing.assert_close(apart(x), torch_own(x))
    for ours, theirs in zip(apart.parameters(), torch_own.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_biases_alone_are_trained_without_a_gradient_of_the_convolution_s_weights() -> None:
    layer = Biased(3, 5, 3)
    layer.weight.requires_grad_(False)
    output = layer(torch.randn(1, 3, 8, 8))  # of images that need no gradients
    names, left = [], [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None:
            names.append(node.name())
            left += [inner for inner, _ in node.next_functions]
    assert not any("Convolution" in name for name in names)


# ---- images


def slow_augment(form: Form, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pixel by pixel; draws in the order of the fast one."""
    n = len(x)
    tops = torch.randint(9, (n,), generator=generator).tolist()
    lefts = torch.randint(9, (n,), generator=generator).tolist()
    mirrored = (torch.rand(n, generator=generator) < 0.5).tolist()
    out = torch.empty(n, 3, 32, 32)
    for i, c, row, column in np.ndindex(n, 3, 32, 32):
        from_row = row + tops[i] - 4
        from_column = (31 - column if mirrored[i] else column) + lefts[i] - 4
        inside = 0 <= from_row < 32 and 0 <= from_column < 32
        pixel = x[i, c, from_row, from_column].item() if inside else 0.0
        out[i, c, row, column] = (pixel - form.mean[c]) / form.deviation[c]
    return out


@pytest.mark.parametrize("form", [FASHION, CIFAR])
def test_crops_in_a_black_margin_mirrored_and_normalized(form: Form) -> None:
    x = torch.rand(3, 3, 32, 32) * 255
    fast, slow = (
        augment(x, torch.Generator().manual_seed(5))
        for augment in (form.augment, lambda *given: slow_augment(form, *given))
    )
    torch.testing.assert_close(fast, slow)


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_images_are_widened_around_their_middle(seed: int) -> None:
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    wide = widened(x)
    assert all(torch.equal(wide[:, c, 2:30, 2:30], x[:, 0]) for c in range(3))
    torch.testing.assert_close(wide.sum(), 3 * x.sum())


def test_fashion_32_is_fashion_of_another_form(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images")
    plain, wide = load_data("fashion", folder), load_data("fashion-32", folder)
    assert torch.equal(wide.task.train_y, plain.task.train_y)
    assert len(wide.task.train_x) == 60
    assert torch.equal(wide.task.train_x[:2], widened(plain.task.train_x[:2]))
    tests = wide.task.validation_x[3:5]
    assert torch.equal(tests, FASHION.plain(widened(plain.task.validation_x[3:5])))
    assert wide.sha256 == plain.sha256
    assert wide.about.endswith("padded to 32 x 32 pixels of three channels")
    held = wide.for_tuning().task.validation_x[:1]  # as an evaluation sees them
    assert held.min() == pytest.approx(-0.286 / 0.353)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_32_keeps_the_whole_image(tmp_path: Path, classes: int) -> None:
    random = np.random.default_rng(0)
    parts = {10: [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], 100: ["train", "test"]}
    pixels = {}
    for name in parts[classes]:
        pixels[name] = random.integers(0, 256, (2, 3072), np.uint8)
        labels = np.zeros((2, 1 if classes == 10 else 2), np.uint8)
        (tmp_path / f"{name}.bin").write_bytes(np.hstack([labels, pixels[name]]).tobytes())
    data = load_data(f"cifar{classes}-32", tmp_path)
    first, last = (
        torch.from_numpy(pixels[parts[classes][i]].reshape(2, 3, 32, 32)).float() for i in (0, -1)
    )
    assert torch.equal(data.task.train_x[:2], first)
    assert torch.equal(data.task.validation_x[:2], CIFAR.plain(last))
    assert data.augment is not None
    assert data.augment(first, torch.Generator()).shape == (2, 3, 32, 32)
    assert data.classes == classes


def test_the_forms_are_those_of_their_training_images() -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.exists():
        pytest.skip("no Fashion-MNIST here")
    x = load_data("fashion", folder).task.train_x[:20_000]
    assert x.mean().item() == pytest.approx(images32.FASHION.mean[0], abs=0.005)
    assert x.std().item() == pytest.approx(0.353, abs=0.005)
