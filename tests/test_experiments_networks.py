"""The papers' networks: their shapes, counts, initial weights and values, and that they jump."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import prod, sqrt

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy import stats
from torch import Tensor, nn

from weightcast.apply import Jumper, jump
from weightcast.experiments.building import NETWORKS, optimizer_of
from weightcast.experiments.catalogue import CATALOGUE, find
from weightcast.experiments.networks import Mnist4, fm16, mnist1, mnist2, mnist3, n0, seeded
from weightcast.experiments.vision import Branches, alexnet1, cifar1, inception1
from weightcast.predictor import load, one_thread

Build = Callable[[int], nn.Module]

# All parameters, in order.
SHAPES: dict[Build, list[tuple[int, ...]]] = {
    n0: [
        *((8, 1, 5, 5), (8,), (16, 8, 5, 5), (16,), (32, 16, 5, 5), (32,)),
        *((1024, 512), (1024,), (10, 1024), (10,)),
    ],
    mnist1: [
        *((32, 1, 5, 5), (32,), (64, 32, 5, 5), (64,), (1024, 3136), (1024,), (10, 1024), (10,)),
    ],
    mnist2: [(20, 1, 5, 5), (20,), (50, 20, 5, 5), (50,), (500, 800), (500,), (10, 500), (10,)],
    mnist3: [(256, 784), (256,), (256, 256), (256,), (10, 256), (10,)],
    Mnist4: [(512, 28), (512, 128), (512,), (512,), (10, 128), (10,)],
    fm16: [(16, 1, 3, 3), (16,), (32, 16, 3, 3), (32,), (32, 32, 3, 3), (32,), (10, 32), (10,)],
    cifar1: [
        *((64, 3, 5, 5), (64,), (64,), (64,), (64, 64, 5, 5), (64,), (64,), (64,)),
        *((384, 2304), (384,), (192, 384), (192,), (10, 192), (10,)),
    ],
    alexnet1: [  # convolutions in groups have half of the channels going in
        *((96, 3, 11, 11), (96,), (256, 48, 5, 5), (256,), (384, 256, 3, 3), (384,)),
        *((384, 192, 3, 3), (384,), (256, 192, 3, 3), (256,)),
        *((4096, 9216), (4096,), (4096, 4096), (4096,), (1000, 4096), (1000,)),
    ],
}

PUBLISHED = {
    n0: 551_818,
    mnist1: 3_274_634,
    mnist2: 431_080,  # Caffe's LeNet
    mnist3: 269_322,
    Mnist4: 82_186,
    fm16: 14_378,
    cifar1: 1_068_298 + 4 * 64,  # the tutorial's, and batch norm
    alexnet1: 60_965_224,  # Caffe's bvlc_alexnet
    inception1: 6_998_552 + 7280,  # Caffe's bvlc_googlenet; a scale beside each channel's shift
}


@cache
def drawn(build: Build, classes: int = 10) -> nn.Module:
    """A network in evaluation, made once and never changed."""
    return seeded(lambda: build(classes), seed=0).eval()


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    with one_thread():
        yield


# ---- shapes and counts


@pytest.mark.parametrize("build", SHAPES, ids=lambda b: b.__name__)
def test_shapes(build: Build) -> None:
    with torch.device("meta"):
        network = build()  # type: ignore[call-arg]
    assert [tuple(p.shape) for p in network.parameters()] == SHAPES[build]


@pytest.mark.parametrize("build", PUBLISHED, ids=lambda b: b.__name__)
def test_counts(build: Build) -> None:
    with torch.device("meta"):
        network = build()  # type: ignore[call-arg]
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[build]


@pytest.mark.parametrize("build", PUBLISHED, ids=lambda b: b.__name__)
def test_classes_are_those_asked_for(build: Build) -> None:
    size = {cifar1: 24, alexnet1: 224, inception1: 224}.get(build)
    shape = (2, 1, 28, 28) if size is None else (2, 3, size, size)
    with torch.device("meta"):
        assert build(7)(torch.zeros(shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("build", "classes", "kinds", "expected"),
    [
        (cifar1, 10, nn.BatchNorm2d, [(64, 12, 12), (64, 6, 6)]),
        (
            alexnet1,
            1000,
            (nn.Conv2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d),
            [
                *((96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13)),
                *((384, 13, 13), (384, 13, 13), (256, 13, 13), (256, 6, 6)),
            ],
        ),
        (
            inception1,
            1000,
            (nn.MaxPool2d, Branches, nn.AdaptiveAvgPool2d),
            [  # table 1 of Szegedy et al. 2015
                *((64, 56, 56), (192, 28, 28), (256, 28, 28), (480, 28, 28), (480, 14, 14)),
                *((512, 14, 14), (512, 14, 14), (512, 14, 14), (528, 14, 14), (832, 14, 14)),
                *((832, 7, 7), (832, 7, 7), (1024, 7, 7), (1024, 1, 1)),
            ],
        ),
    ],
)
def test_sizes_on_the_way(
    build: Build,
    classes: int,
    kinds: type[nn.Module] | tuple[type[nn.Module], ...],
    expected: list[tuple[int, ...]],
) -> None:
    found = []
    with torch.device("meta"):
        x = torch.zeros(1, 3, *[24 if build is cifar1 else 224] * 2)
        for layer in build(classes).children():
            x = layer(x)
            if isinstance(layer, kinds):
                found.append(tuple(x.shape[1:]))
    assert found == expected


@pytest.mark.parametrize("build", [alexnet1, inception1])
def test_smaller_images_fit_down_to_31_pixels(build: Build) -> None:
    with torch.device("meta"):
        network = build(5)
        for size in (31, 32, 64, 256):
            assert network(torch.zeros(2, 3, size, size)).shape == (2, 5)
        with pytest.raises(RuntimeError, match="too small"):
            network(torch.zeros(2, 3, 30, 30))


def test_every_experiment_has_its_network() -> None:
    """The very functions that are tested here, by the names of the catalogue."""
    built = {NETWORKS[entry.network] for entry in CATALOGUE.values()}
    assert built == PUBLISHED.keys() - {n0}


# ---- values, beside the papers' words in order


def linear(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    return x @ next(p).T + next(p)


def by_mnist1(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    for _ in range(2):
        x = F.max_pool2d(F.conv2d(x, next(p), next(p), padding=2).relu(), 2)
    return linear(linear(x.flatten(1), p).relu(), p)


def by_mnist2(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    for _ in range(2):
        x = F.max_pool2d(F.conv2d(x, next(p), next(p)), 2)
    return linear(linear(x.flatten(1), p).relu(), p)


def by_n0(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    for _ in range(3):
        x = F.conv2d(x, next(p), next(p), padding=2).relu()
        x = F.max_pool2d(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)), 2)  # "same"
    return linear(linear(x.flatten(1), p).relu(), p)


def by_mnist3(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    return linear(linear(linear(x.flatten(1), p).relu(), p).relu(), p)


def by_mnist4(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    of_row, of_state, bias, other = (next(p) for _ in range(4))
    hidden = cell = torch.zeros(len(x), 128)
    for row in x[:, 0].unbind(1):
        gates = row @ of_row.T + hidden @ of_state.T + bias + other
        take, keep, new, give = gates.chunk(4, 1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        hidden = give.sigmoid() * cell.tanh()
    return linear(hidden, p)


def by_fm16(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    x = F.conv2d(x, next(p), next(p), stride=2).relu()
    for _ in range(2):
        x = F.conv2d(x, next(p), next(p), padding=1).relu()
    return linear(x.mean((2, 3)), p)


def by_cifar1(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    """With the statistics that batch norm starts from, 0 and 1."""
    for _ in range(2):
        x = F.conv2d(x, next(p), next(p), padding=2).relu()
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)  # TensorFlow's "same" at even sizes
        scale, shift = (next(p)[:, None, None] for _ in range(2))
        x = x / sqrt(1 + 1e-5) * scale + shift
    return linear(linear(linear(x.flatten(1), p).relu(), p).relu(), p)


def normalized(x: Tensor) -> Tensor:
    """Krizhevsky et al. 2012, section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75."""
    squares = F.pad(x**2, (0, 0, 0, 0, 2, 2))
    near = torch.stack([squares[:, i : i + x.shape[1]] for i in range(5)]).sum(0)
    return x / (2 + 1e-4 * near) ** 0.75


def grouped(x: Tensor, p: Iterator[Tensor], padding: int) -> Tensor:
    """Each half of the outputs sees its half of the inputs: the two GPUs."""
    halves = zip(x.chunk(2, 1), next(p).chunk(2), next(p).chunk(2), strict=True)
    return torch.cat([F.conv2d(*half, padding=padding) for half in halves], 1).relu()


def by_alexnet1(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    x = F.conv2d(x, next(p), next(p), stride=4, padding=2).relu()
    x = F.max_pool2d(normalized(x), 3, 2)
    x = F.max_pool2d(normalized(grouped(x, p, 2)), 3, 2)
    x = F.conv2d(x, next(p), next(p), padding=1).relu()
    x = F.max_pool2d(grouped(grouped(x, p, 1), p, 1), 3, 2)
    return linear(linear(linear(x.flatten(1), p).relu(), p).relu(), p)


@pytest.mark.parametrize(
    ("build", "reference", "shape"),
    [
        (n0, by_n0, (3, 1, 28, 28)),
        (mnist1, by_mnist1, (3, 1, 28, 28)),
        (mnist2, by_mnist2, (3, 1, 28, 28)),
        (mnist3, by_mnist3, (3, 1, 28, 28)),
        (Mnist4, by_mnist4, (3, 1, 28, 28)),
        (fm16, by_fm16, (3, 1, 28, 28)),
        (cifar1, by_cifar1, (3, 3, 24, 24)),
        (alexnet1, by_alexnet1, (1, 3, 224, 224)),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
@torch.no_grad()
def test_values(
    build: Build, reference: Callable[[Tensor, Iterator[Tensor]], Tensor], shape: tuple[int, ...]
) -> None:
    """With larger weights than the initial ones, so that every layer matters."""
    network = seeded(lambda: build(10), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for p in network.parameters():
        p.normal_(std=2 / sqrt(prod(p.shape[1:])) if p.dim() > 1 else 0.5, generator=generator)
    x = pixels(*shape) * (50 if build is alexnet1 else 1)  # so that normalization matters
    expected = reference(x, iter(network.parameters()))
    assert expected.std() > 0.01
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_inception_module() -> None:
    """Four branches of ReLU(batch norm(convolution)), one beside the other."""
    module = drawn(inception1)[5]  # type: ignore[index]
    assert isinstance(module, Branches)
    x = pixels(2, 192, 7, 7)
    p = iter(module.parameters())
    eps = 1e-3

    def convolution(x: Tensor) -> Tensor:
        weight, scale, shift = next(p), next(p), next(p)
        x = F.conv2d(x, weight, padding=weight.shape[2] // 2) / sqrt(1 + eps)
        return (x * scale[:, None, None] + shift[:, None, None]).relu()

    expected = [
        convolution(x),
        convolution(convolution(x)),
        convolution(convolution(x)),
        convolution(F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-9.0), 3, 1)),
    ]
    assert [len(e[0]) for e in expected] == [64, 128, 32, 32]
    sizes = [m.kernel_size[0] for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert sizes == [1, 1, 3, 1, 5, 1]
    torch.testing.assert_close(module(x), torch.cat(expected, 1))


# ---- initial weights


def normal(std: float) -> object:
    return stats.norm(scale=std)


def uniform(bound: float) -> object:
    return stats.uniform(loc=-bound, scale=2 * bound)


CUT = stats.truncnorm(-2, 2, scale=0.01)
# Of each parameter: a distribution, or a constant.
INITIAL: dict[Build, list[object]] = {
    # torch's own are uniform up to one over the root of how many inputs a unit has
    n0: [uniform(1 / sqrt(n)) for n in (25, 200, 400, 512, 1024) for _ in range(2)],
    mnist1: [CUT, 0.1] * 4,
    mnist2: [
        v
        for ends in ((25, 500), (500, 1250), (800, 500), (500, 10))
        for v in (uniform(sqrt(6 / sum(ends))), 0.0)
    ],
    mnist3: [normal(1)] * 6,
    Mnist4: [uniform(1 / sqrt(128))] * 6,
    fm16: [uniform(1 / sqrt(n)) for n in (9, 144, 288, 32) for _ in range(2)],
    cifar1: [
        *(normal(1e-4), 0.0, 1.0, 0.0, normal(1e-4), 0.1, 1.0, 0.0),
        *(normal(0.04), 0.1, normal(0.04), 0.1, normal(1 / 192), 0.0),
    ],
    alexnet1: [v for bias in (0.0, 1, 0, 1, 1, 1, 1, 0) for v in (normal(0.01), bias)],
    inception1: [*[CUT, 1.0, 0.0] * 57, CUT, 0.0],
}


@pytest.mark.parametrize("build", INITIAL, ids=lambda b: b.__name__)
def test_initial_weights(build: Build) -> None:
    parameters = dict(drawn(build).named_parameters())
    for (name, p), expected in zip(parameters.items(), INITIAL[build], strict=True):
        if isinstance(expected, float | int):
            assert p.detach().eq(expected).all(), name
            continue
        values = p.detach().flatten()[:20_000].numpy()
        assert stats.kstest(values, expected.cdf).pvalue > 1e-4, name  # type: ignore[attr-defined]
        low, high = expected.support()  # type: ignore[attr-defined]
        assert low - 1e-7 <= p.min(), name
        assert p.max() <= high + 1e-7, name


@pytest.mark.parametrize("build", [mnist1, Mnist4, cifar1, inception1])
def test_initial_weights_are_from_torchs_generator(build: Build) -> None:
    def first(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [p.detach() for p in build(3).parameters() if p.dim() > 1]

    with torch.random.fork_rng(devices=[]):
        one, again, other = first(1), first(1), first(2)
    assert all(a.equal(b) for a, b in zip(one, again, strict=True))
    assert not any(a.equal(b) for a, b in zip(one, other, strict=True))


def test_seeded_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    seeded(fm16, seed=5)
    assert torch.get_rng_state().equal(before)


def test_dropout_is_where_the_papers_have_it() -> None:
    with torch.device("meta"):
        found = {
            build: [m.p for m in build(10).modules() if isinstance(m, nn.Dropout)]
            for build in PUBLISHED
        }
    expected = {n0: [0.5], mnist1: [0.5], alexnet1: [0.5, 0.5], inception1: [0.4]}
    assert found == {build: expected.get(build, []) for build in PUBLISHED}


# ---- training and jumps

JUMP = 5


def step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    loss = F.cross_entropy(network(x), y)
    assert loss.isfinite()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def assert_sane(network: nn.Module, steps: int) -> None:
    """Finite weights, and statistics of as many batches as there were."""
    assert all(p.isfinite().all() for p in network.parameters())
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert all(b.isfinite().all() for b in layer.buffers())
            assert layer.get_buffer("running_var").gt(0).all()
            assert layer.num_batches_tracked == steps


@pytest.mark.parametrize(
    ("name", "build", "shape"),
    [
        ("mnist1", mnist1, (4, 1, 28, 28)),
        ("mnist2", mnist2, (4, 1, 28, 28)),
        ("mnist3", mnist3, (4, 1, 28, 28)),
        ("mnist4", Mnist4, (4, 1, 28, 28)),
        ("fm16", fm16, (4, 1, 28, 28)),
        ("cifar1", cifar1, (4, 3, 24, 24)),
        ("alexnet1", alexnet1, (2, 3, 31, 31)),
        ("inception1", inception1, (2, 3, 64, 64)),
    ],
)
def test_it_trains_and_jumps(name: str, build: Build, shape: tuple[int, ...]) -> None:
    """By its experiment's optimizer: weights become their forecast, batch norm's buffers stay."""
    network = seeded(lambda: build(3), seed=1)
    of_convolutions = [p for p in network.parameters() if p.dim() == 4]
    parameters = of_convolutions if build is alexnet1 else list(network.parameters())
    optimizer = optimizer_of(find(name).updates, network)
    snapshots: dict[int, list[Tensor]] = {}
    buffers: list[list[Tensor]] = []

    def keep(*_: object) -> None:  # called before the jumper's own hook
        snapshots[len(snapshots)] = [p.detach().clone() for p in parameters]
        buffers.append([b.clone() for b in network.buffers()])

    keep()
    optimizer.register_step_post_hook(keep)
    forecaster = load("introspection-mnist")
    jumper = Jumper(optimizer, forecaster, [JUMP], guard=None, parameters=parameters)
    x, y = pixels(*shape), torch.arange(shape[0]) % 3
    with jumper, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(JUMP):
            step(network, optimizer, x, y)
        past = [snapshots[t] for t in (JUMP, 4, 2, 0)]
        for p, before, forecast in zip(
            parameters, past[0], jump(past[0], past, forecaster), strict=True
        ):
            assert p.equal(forecast)
            assert not p.equal(before)
        assert all(map(torch.equal, buffers[-1], network.buffers()))
        step(network, optimizer, x, y)
    assert_sane(network, steps=JUMP + 1)
    with torch.no_grad():
        assert network.eval()(x).isfinite().all()
