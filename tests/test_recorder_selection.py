"""Which tensors are recorded, under which names, and how the model of an optimizer is found."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from store_reference import refuses
from torch import nn

from weightcast.recorder import find_model, select, unwrap
from weightcast.recorder.finding import Subject
from weightcast.store import RecordingError, UsageError


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


PARAMETERS = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
BUFFERS = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class Holder(nn.Module):
    """What a wrapper looks like: it holds the model under a name of its own."""

    def __init__(self, model: nn.Module, name: str = "_orig_mod") -> None:
        super().__init__()
        setattr(self, name, model)


def test_tensors_are_the_model_s_own() -> None:
    model = small()
    selection = select(model)
    assert list(selection.parameters) == PARAMETERS
    assert list(selection.buffers) == BUFFERS
    for name, tensor in (selection.parameters | selection.buffers).items():
        assert tensor is model.state_dict(keep_vars=True)[name]


def test_table_gives_shape_dtype_and_place() -> None:
    table = select(small().bfloat16()).parameter_table()
    rows = [(p.name, p.shape, p.dtype, p.offset) for p in table]
    assert rows[:3] == [
        ("0.weight", (3, 2), "bfloat16", 0),
        ("0.bias", (3,), "bfloat16", 6),
        ("1.weight", (3,), "bfloat16", 9),
    ]
    assert table.size == sum(p.numel() for p in small().parameters())


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        (nn.Linear(2, 2), ["weight", "bias"]),
        (nn.LayerNorm(2), ["norm", "norm"]),
        (nn.GroupNorm(1, 2), ["norm", "norm"]),
        (nn.RMSNorm(2), ["norm"]),
        (nn.BatchNorm2d(2), ["norm", "norm"]),
        (nn.Embedding(2, 2), ["weight"]),
        (nn.LSTM(2, 2), ["weight", "weight", "bias", "bias"]),
        (nn.MultiheadAttention(2, 1), ["weight", "bias", "weight", "bias"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds(module: nn.Module, kinds: list[str]) -> None:
    for model, prefix in ((module, ""), (nn.Sequential(module), "0.")):
        table = select(model).parameter_table()
        assert [p.kind for p in table] == kinds
        assert [p.name for p in table] == [prefix + name for name, _ in module.named_parameters()]


@pytest.mark.parametrize(
    ("include", "exclude", "kept"),
    [
        ([], [], PARAMETERS + BUFFERS),
        (["0.*"], [], ["0.weight", "0.bias"]),
        (["0.*", "2.bias"], [], ["0.weight", "0.bias", "2.bias"]),
        ([], ["*.bias", "1.*"], ["0.weight", "2.weight"]),
        (["*weight"], ["2.*"], ["0.weight", "1.weight"]),
        (["[02].weight"], [], ["0.weight", "2.weight"]),
        (["2.*", "*running*"], [], ["2.weight", "2.bias", *BUFFERS[:2]]),
    ],
)
def test_globs(include: list[str], exclude: list[str], kept: list[str]) -> None:
    selection = select(small(), include, exclude)
    assert [*selection.parameters, *selection.buffers] == kept


def test_one_glob_without_a_list() -> None:
    """Read letter by letter, the ``*`` of ``"0.*"`` would select everything."""
    assert list(select(small(), include="0.*").parameters) == ["0.weight", "0.bias"]
    assert list(select(small(), exclude="[12].*").parameters) == ["0.weight", "0.bias"]


def test_globs_that_select_nothing() -> None:
    with refuses(UsageError, "nope.*", "6 parameters", "globs"):
        select(small(), ["nope.*"])
    with refuses(UsageError, "globs"):
        select(small(), exclude=["*"])


def test_model_without_parameters() -> None:
    with refuses(UsageError, "0 parameters"):
        select(nn.ReLU())


def test_tied_parameters_stand_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(select(model).parameters) == ["0.weight", "0.bias", "1.bias"]


def test_buffers_that_the_state_does_not_keep_are_left_out() -> None:
    model = small()
    model.register_buffer("mask", torch.ones(2), persistent=False)
    model.register_buffer("none", None)
    assert list(select(model).buffers) == BUFFERS


@pytest.mark.parametrize(
    ("dtypes", "stored"),
    [
        ([torch.float32], torch.float32),
        ([torch.float16, torch.bfloat16], torch.float32),
        ([torch.float32, torch.float64, torch.bfloat16], torch.float64),
    ],
)
def test_stored_dtype_holds_every_parameter(dtypes: list[torch.dtype], stored: torch.dtype) -> None:
    model = nn.ParameterList(nn.Parameter(torch.ones(1, dtype=dtype)) for dtype in dtypes)
    assert select(model).stored_dtype == stored


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_parameters_that_are_not_real_numbers(dtype: torch.dtype) -> None:
    model = small()
    model.odd = nn.Parameter(torch.ones(2).to(dtype), requires_grad=False)
    with refuses(RecordingError, "'odd'", dtype, "exclude"):
        select(model)
    assert list(select(model, exclude=["odd"]).parameters) == PARAMETERS


@pytest.mark.parametrize(
    "buffer",
    [torch.tensor([2**53 + 1]), torch.ones(2).to(torch.complex64)],
    ids=["large", "complex"],
)
def test_buffers_that_float64_does_not_hold(buffer: torch.Tensor) -> None:
    model = small()
    model.register_buffer("odd", buffer)
    with refuses(RecordingError, "'odd'", buffer.dtype, "exclude"):
        select(model)
    assert list(select(model, exclude=["odd"]).buffers) == BUFFERS


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.uint32])
def test_buffers_of_whole_numbers(dtype: torch.dtype) -> None:
    model = small()
    model.register_buffer("counts", torch.ones(3, dtype=torch.int64).to(dtype))
    assert "counts" in select(model).buffers


def test_lazy_model_is_refused_before_its_first_batch() -> None:
    with refuses(RecordingError, "weight"):
        select(nn.Sequential(nn.LazyLinear(3)))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        nn.DataParallel,
        Holder,  # torch.compile's OptimizedModule
        lambda model: nn.DataParallel(Holder(model)),
        lambda model: Holder(nn.DataParallel(model)),
    ],
    ids=["plain", "data-parallel", "compiled", "compiled in parallel", "parallel compiled"],
)
def test_wrappers_are_looked_through(wrap: type) -> None:
    model = small()
    wrapped = wrap(model)
    assert unwrap(wrapped) is model
    assert [*select(wrapped).parameters, *select(wrapped).buffers] == PARAMETERS + BUFFERS
    assert find_model(sgd(model.parameters())) is model


def test_compiled_model() -> None:
    """The real wrapper: making it compiles nothing yet."""
    model = small()
    assert unwrap(torch.compile(model, backend="eager")) is model


def test_finds_the_outermost_model() -> None:
    model = Holder(small(), "encoder")
    model.head = nn.Linear(2, 1)
    assert find_model(sgd(model.parameters())) is model
    assert find_model(sgd(model.head.parameters())) is model
    assert find_model(sgd([model.encoder[0].weight])) is model


def test_finds_the_smaller_of_two_outermost_models() -> None:
    """A model may be a part of several others, such as a loss network that scores it."""
    model = small()
    larger, smaller = Holder(model, "judged"), Holder(model, "net")
    larger.judge = nn.Linear(2, 1)
    another = Holder(model, "judged")
    another.judge = nn.Linear(2, 1)
    assert find_model(sgd(model.parameters())) is smaller


def test_finds_no_model_for_loose_parameters() -> None:
    loose, model = nn.Parameter(torch.ones(2)), small()
    assert find_model(sgd([loose])) is None
    assert find_model(sgd([loose, *model.parameters()])) is None


def test_copies_are_not_mistaken_for_the_model() -> None:
    """Averaged and teacher models are copies that no optimizer updates."""
    model = small()
    copies = [copy.deepcopy(model), torch.optim.swa_utils.AveragedModel(model)]
    found = find_model(sgd(model.parameters()))
    assert found is model
    assert found not in copies


@pytest.fixture
def half_built() -> Iterator[nn.Module]:
    """A module whose ``__init__`` failed before ``super().__init__()``, and that lives on."""
    module = nn.Module.__new__(nn.Module)
    yield module
    nn.Module.__init__(module)  # other tests find models in the same process


def test_half_built_modules_do_not_hinder_the_search(half_built: nn.Module) -> None:
    model = small()
    assert find_model(sgd(model.parameters())) is model
    assert not hasattr(half_built, "weight")


def test_loose_parameters_are_named_by_their_groups() -> None:
    a, b, c = (nn.Parameter(torch.ones(n)) for n in (1, 2, 3))
    optimizer = sgd([{"params": [a, b]}, {"params": [c], "lr": 1.0}])
    selection = Subject(optimizer).select()
    assert selection.parameters == {"group0.param0": a, "group0.param1": b, "group1.param0": c}
    assert not selection.buffers
    assert list(Subject(optimizer).select(["group1.*"]).parameters) == ["group1.param0"]
    with refuses(UsageError, "group0.param0", "nope"):
        Subject(optimizer).select(["nope"])


def test_loose_parameters_with_names_keep_them() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(2))
    selection = Subject(sgd([("a", a), ("b.weight", b)])).select()
    assert selection.parameters == {"a": a, "b.weight": b}


def test_loose_parameters_of_one_name_are_not_lost() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(2))
    selection = Subject(sgd([("w", a), ("w", b)])).select()
    assert {id(p) for p in selection.parameters.values()} == {id(a), id(b)}


def test_loose_complex_parameters_are_refused() -> None:
    optimizer = sgd([nn.Parameter(torch.ones(1, dtype=torch.complex64))])
    with refuses(RecordingError, "group0.param0", "complex64"):
        Subject(optimizer).select()
