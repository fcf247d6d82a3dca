"""The study of the early phase: starts, runs from them, and what is said of their numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn

from weightcast.apply.masking import hold
from weightcast.apply.rewinding import load_mask, rewind
from weightcast.experiments import (
    building,
    early_phase_runs,
    early_phase_starts,
    imp_protocols,
    running,
)
from weightcast.experiments.arm_run import Run
from weightcast.experiments.digits import Task
from weightcast.experiments.early_phase import STUDY, plan
from weightcast.experiments.early_phase_document import starts_table
from weightcast.experiments.early_phase_findings import judge, sentences
from weightcast.experiments.early_phase_numbers import Outcome, Row, compact, expand, gather
from weightcast.experiments.early_phase_runs import StartRun, runs_of
from weightcast.experiments.early_phase_starts import (
    HELD,
    INITIAL,
    NOISES,
    OTHERS,
    REWOUND,
    SHUFFLES,
    SIGNS,
    STARTS,
    SUPERVISED,
    Start,
    begin,
)
from weightcast.experiments.experiment import Arm, Experiment, Updates
from weightcast.experiments.imp_dense import Dense
from weightcast.experiments.imp_runs import Chain
from weightcast.experiments.jobs import Place
from weightcast.experiments.kept import keep, required
from weightcast.experiments.loading import Data
from weightcast.experiments.starts import random_labels, rotations, supervised
from weightcast.experiments.study import Request, with_needs
from weightcast.predictor import one_thread
from weightcast.store import (
    FormatError,
    InputNotFoundError,
    NonFiniteError,
    OutputExistsError,
    UsageError,
)

K, STEPS, CLASSES = 4, 12, 5
TINY = Experiment(
    name="tiny",
    title="Twelve steps",
    paper="none",
    data="mnist",
    network="tiny",
    updates=Updates("SGD", 0.1, {"momentum": 0.9, "weight_decay": 0.01}),
    batch=10,
    steps=STEPS,
    evaluate_every=4,
    arms=(),
    averaged=False,
)
RECORDED = (0, 2, K)


def tiny(classes: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, classes)),
    )


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    x = torch.rand(count, 1, 6, 6, generator=generator)
    x[torch.arange(count), 0, 0, y] += 2
    return x, y


DATA = Data(Task(*images(60, 0), *images(40, 1)), {"made": "up"}, CLASSES, "made up")


class TinyPlace(Place):
    def data(self, name: str) -> Data:
        return DATA


def make_known(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(building.NETWORKS, "tiny", tiny)
    known = imp_protocols.PROTOCOLS
    protocol = replace(
        known["lenet", "paper"], experiment=TINY, rewind=RECORDED, control=2, rounds=3
    )
    patch.setitem(known, ("tiny", "paper"), protocol)


@pytest.fixture(autouse=True)
def tiny_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    make_known(monkeypatch)


def perform(job: StartRun | Chain, folder: Path) -> Mapping[str, Any]:
    for each in with_needs([job], folder):
        each.perform(TinyPlace(folder, {}), lambda done, total: None)
    return required(job.result(folder))


def run_of(start: Start, *, sparse: bool, seed: int = 0) -> StartRun:
    runs = runs_of("tiny", "paper", seed, (K,))
    return next(run for run in runs if (run.start, run.sparse) == (start, sparse))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the tiny network's pruning, and of every start, of two seeds."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        make_known(patch)
        for seed in (0, 1):
            for run in runs_of("tiny", "paper", seed, (K,)):
                perform(run, folder)
    return folder


# --- other tasks


@given(st.integers(0, 2**40), st.integers(0, 30))
@settings(deadline=None, max_examples=20)
def test_random_labels_are_the_labels_dealt_out_anew(seed: int, count: int) -> None:
    x, y = images(count, 3)
    data = replace(DATA, task=Task(x, y, *images(4, 2)))
    dealt, again = (random_labels(data, seed).task for _ in range(2))
    assert dealt.train_x is x
    assert dealt.train_y.equal(again.train_y)
    assert sorted(dealt.train_y.tolist()) == sorted(y.tolist())
    assert dealt.validation_y.equal(dealt.train_y)  # they are judged on what they were trained on


def test_random_labels_depend_on_the_seed_and_tell_nothing_of_the_image() -> None:
    y = torch.arange(1000) % 10
    data = replace(DATA, task=Task(torch.zeros(1000, 1, 1, 1), y, *images(4, 2)))
    one, other = (random_labels(data, seed).task.train_y for seed in (0, 1))
    assert not one.equal(other)
    assert 0.05 < float((one == y).float().mean()) < 0.15


def test_random_labels_are_judged_on_images_as_evaluation_sees_them() -> None:
    dealt = random_labels(replace(DATA, plain=lambda x: x - 1), 0).task
    assert dealt.train_x is DATA.task.train_x
    assert dealt.validation_x[:7].equal(DATA.task.train_x[:7] - 1)


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_rotations_are_numpys(seed: int, count: int, side: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((count, channels, side, side), np.float32)
    task = Task(torch.tensor(x), torch.zeros(count).long(), torch.tensor(x), torch.zeros(count))
    turned = rotations(replace(DATA, task=task), seed).task
    assert len(turned.train_x) == len(turned.train_y) == 4 * count
    rows = rng.integers(0, 4 * count, 7)
    expected = [np.rot90(x[row // 4], row % 4, (1, 2)) for row in rows]
    for part, labels in (
        (turned.train_x, turned.train_y),
        (turned.validation_x, turned.validation_y),
    ):
        assert np.array_equal(part[torch.tensor(rows)].numpy(), np.stack(expected))
        assert labels[torch.tensor(rows)].tolist() == (rows % 4).tolist()
        assert part[1:3].equal(part[torch.arange(1, min(3, 4 * count))])


def test_rotated_images_are_neither_cropped_nor_mirrored_but_as_evaluation_sees_them() -> None:
    data = replace(DATA, augment=lambda x, _: x.flip(-1), plain=lambda x: x - 1)
    turned = rotations(data, 0)
    assert turned.augment is None
    assert turned.task.train_x[torch.tensor([0])].equal(DATA.task.train_x[:1] - 1)
    assert turned.task.validation_x[torch.tensor([0])].equal(DATA.task.validation_x[:1])
    assert supervised(data, 0) is data


# --- starts


def begun(results: Path, start: Start, mask: Mapping[str, torch.Tensor] | None = None) -> Any:
    run = Run.begin(TINY, Arm("start"), 0, DATA)
    history = Dense("tiny", "paper", 0, RECORDED).history(results)
    with one_thread(), torch.random.fork_rng(devices=[]):
        did = begin(run, start, K, history, mask)
    return run.network, did


def mask_of(results: Path, sparse: bool) -> Mapping[str, torch.Tensor] | None:
    chain = run_of(REWOUND, sparse=True).chain
    return load_mask(chain.place_of(results) / "mask-03.safetensors") if sparse else None


def trained(data: Data, steps: int, mask: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
    """The slow reference: the tiny network after its first steps on other data."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        run = Run.begin(TINY, Arm("start"), 0, data)
        if mask is not None:
            hold(run.network, mask, run.optimizer)
        run.advance(steps)
    return run.network


def same(one: nn.Module, other: nn.Module, but: str = "none") -> bool:
    states = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return all(a.equal(b) for (name, a), b in states if not name.startswith(but))


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.name)
@pytest.mark.parametrize("sparse", [False, True])
def test_distances_are_those_of_the_weights_that_remain(
    results: Path, start: Start, sparse: bool
) -> None:
    mask = mask_of(results, sparse)
    recorded, first = trained(DATA, K), trained(DATA, 0)
    network, did = begun(results, start, mask)

    def flat(network: nn.Module) -> np.ndarray:
        named = dict(network.named_parameters())
        kept = {name: named[name].detach().double() for name in ("0.weight", "4.weight")}
        return np.concatenate([w[mask[n]] if mask else w.flatten() for n, w in kept.items()])

    change = np.linalg.norm(flat(recorded) - flat(first))
    assert did.change == pytest.approx(change)
    assert did.moved == pytest.approx(np.linalg.norm(flat(network) - flat(recorded)))
    as_recorded = start is REWOUND or (start is SUPERVISED and not sparse)
    assert (did.moved == 0) == as_recorded
    assert (did.learned is not None) == start.trains


def test_rewound_and_initial_are_the_recorded_steps(results: Path) -> None:
    assert same(begun(results, REWOUND)[0], trained(DATA, K))
    initial = begun(results, INITIAL)[0]  # statistics are recorded after the first images
    assert same(initial, trained(DATA, 0), but="1.")


def test_perturbations_are_of_step_k(results: Path) -> None:
    now, first = trained(DATA, K), trained(DATA, 0)
    for start in (SIGNS, *SHUFFLES, *NOISES):
        network, _ = begun(results, start)
        assert not network[4].weight.equal(now[4].weight)
        assert same(network[1], now[1])  # batch norm, with its statistics
        assert network[4].bias.equal(now[4].bias)
    signs, _ = begun(results, SIGNS)
    assert signs[4].weight.sign().equal(now[4].weight.sign())
    magnitudes = [n[4].weight.abs().flatten().sort().values for n in (signs, first)]
    assert magnitudes[0].equal(magnitudes[1])
    noises = [begun(results, start)[0][4].weight.double() for start in NOISES]
    for weight, scale in zip(noises, (0.5, 1.0, 2.0), strict=True):  # the same noise
        torch.testing.assert_close(
            (weight - now[4].weight) / scale, noises[1] - now[4].weight, rtol=1e-4, atol=1e-6
        )


def test_the_weights_of_a_sparse_network_are_perturbed_among_themselves(results: Path) -> None:
    mask = mask_of(results, sparse=True)
    assert mask is not None
    kept, now = mask["4.weight"], trained(DATA, K)[4].weight
    shuffled = begun(results, SHUFFLES[1], mask)[0][4].weight
    assert shuffled[kept].sort().values.equal(now[kept].sort().values)
    assert not shuffled[kept].equal(now[kept])


def test_other_tasks_train_k_steps_from_the_initial_weights(results: Path) -> None:
    labels, rotation = OTHERS
    assert same(begun(results, labels)[0], trained(random_labels(DATA, 0), K))
    network, did = begun(results, rotation)
    reference = trained(rotations(DATA, 0), K)
    assert same(network, reference, but="4.")
    assert not network[4].weight.equal(reference[4].weight)
    assert same(network[4], trained(DATA, 0)[4])  # the last layer is as it was
    assert 0 <= did.learned <= 1


def test_a_mask_is_held_in_training_only_where_the_start_says_so(results: Path) -> None:
    mask = mask_of(results, True)
    for start in HELD:
        task = {"random labels": random_labels, "rotation": rotations}.get(start.kind, supervised)
        reference = trained(task(DATA, 0), K, mask)
        but = "4." if start.kind == "rotation" else "none"
        assert same(begun(results, start, mask)[0], reference, but)
    assert same(begun(results, OTHERS[0], mask)[0], trained(random_labels(DATA, 0), K))


# --- runs


def test_a_sparse_rewound_run_is_the_round_of_pruning_that_its_mask_is_of(results: Path) -> None:
    for seed in (0, 1):
        run = run_of(REWOUND, sparse=True, seed=seed)
        assert run.round == 3
        chain = replace(run.chain, rounds=3)
        found, expected = required(run.result(results)), perform(chain, results)
        assert found["accuracy"][-1] == expected["accuracy"][-1]
        assert found["loss"][-1] == expected["loss"][-1]
        assert found["remaining"] == expected["remaining"]


def test_a_dense_run_trains_from_its_start_with_the_batches_of_step_k(results: Path) -> None:
    found = required(run_of(INITIAL, sparse=False).result(results))
    with one_thread(), torch.random.fork_rng(devices=[]):
        run = Run.begin(TINY, Arm("start"), 0, DATA)
        rewind(run.network, Dense("tiny", "paper", 0, RECORDED).history(results), 0)
        run.step = K
        run.measure()
        run.advance(STEPS - K)
        run.measure()
    trace = run.traces["start"]
    assert found["steps"][0] == K
    assert found["steps"][-1] == STEPS
    assert [found["loss"][i] for i in (0, -1)] == trace.loss


def test_runs_differ_by_start_seed_and_density(results: Path) -> None:
    runs = [run for seed in (0, 1) for run in runs_of("tiny", "paper", seed, (K,))]
    assert len({run.result(results) for run in runs}) == len({run.label for run in runs}) == 50
    losses = {required(run.result(results))["loss"][-1] for run in runs}
    assert len(losses) == 50


def test_a_run_that_is_there_is_not_done_again_and_of_other_data_refused(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(SIGNS, sparse=True)
    before = run.result(results).read_bytes()
    monkeypatch.setattr(early_phase_runs, "trained", None)
    run.perform(TinyPlace(results, {}), lambda done, total: None)
    assert run.result(results).read_bytes() == before
    monkeypatch.setattr(TinyPlace, "data", lambda *_: replace(DATA, sha256={"other": "data"}))
    with refuses(OutputExistsError, "data"):
        run.perform(TinyPlace(results, {}), lambda done, total: None)


def test_a_stopped_run_goes_on_to_the_same_numbers(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_CHECKPOINT", 0.0)
    run = run_of(OTHERS[1], sparse=True)
    for need in with_needs(run.needs):
        need.perform(TinyPlace(tmp_path, {}), lambda done, total: None)

    def stop_late(done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 2:
            raise KeyboardInterrupt

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run.perform(TinyPlace(tmp_path, {}), stop_late)
    assert not run.result(tmp_path).exists()
    steps.clear()
    run.perform(TinyPlace(tmp_path, {}), lambda done, total: steps.append(done))
    assert steps[0] > K + STEPS // 4  # from the checkpoint
    found, expected = required(run.result(tmp_path)), dict(required(run.result(results)))
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    assert not list(run.result(tmp_path).parent.glob(".*.pt"))


def test_a_plan_has_every_start_and_needs_the_pruning_that_makes_its_mask() -> None:
    runs = plan(Request(seeds=2))
    assert len(runs) == 2 * 2 * (11 + 14)
    sparse = next(run for run in runs if run.sparse and run.k == 2000)
    assert sparse.needs == (sparse.dense, sparse.chain)
    assert (sparse.round, sparse.chain.rounds, sparse.chain.step) == (8, 7, 2000)
    assert sparse.dense.recorded == (0, 100, 500, 2000)  # as of the study of pruning alone
    assert sparse.data == {"mnist"}
    assert [run.k for run in plan(Request(seeds=1, budget="quick"))] == [75] * 25


def test_a_plan_refuses_what_cannot_be() -> None:
    with refuses(UsageError, "network", "lenet", "'mnist9'"):
        plan(Request(networks=("mnist9",)))
    for step in (0, -1, 8000):
        with refuses(UsageError, "from 1 to 7,999", step):
            plan(Request(rewind=(500, step)))
    with refuses(UsageError, "distinct", 500):
        plan(Request(rewind=(500, 500)))


# --- numbers


def outcome_of(
    accuracies: Mapping[tuple[str, bool], list[float]], budget: str = "paper"
) -> Outcome:
    """Made-up runs from step 500: accuracies of a start by seed."""
    rows = [
        Row(start, sparse, seed, 500, 0.168 if sparse else 1.0, value, 0.1, 2.0, 1.0, None, "")
        for (start, sparse), values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return Outcome("lenet", budget, "made up", tuple(rows))


def test_numbers_go_to_a_documents_file_and_back(results: Path, tmp_path: Path) -> None:
    found = gather(results)["tiny"]
    assert len(found.rows) == 50
    (tmp_path / "tiny.json").write_text(compact(found))
    assert expand(tmp_path / "tiny.json") == found
    run = run_of(SIGNS, sparse=True, seed=1)
    numbers = required(run.result(results))
    assert found.accuracy("signs", K, sparse=True)[1] == pytest.approx(numbers["accuracy"][-1])
    gain = found.gain("signs", K, sparse=True)
    rewound = required(run_of(REWOUND, sparse=True, seed=1).result(results))
    assert gain[1] == pytest.approx(numbers["accuracy"][-1] - rewound["accuracy"][-1], abs=1e-4)


def test_a_start_that_diverged_has_no_distance_and_the_document_goes_on(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wild(run: Run, *_: Any) -> float:
        nn.init.constant_(run.network[4].weight, torch.nan)  # type: ignore[index]
        return 0.2

    copied = Path(shutil.copytree(results, tmp_path / "results"))
    run = run_of(OTHERS[0], sparse=False)
    run.result(copied).unlink()
    monkeypatch.setattr(early_phase_starts, "_pretrain", wild)
    numbers = perform(run, copied)
    assert numbers["moved"] is None
    found = gather(copied)["tiny"]
    (row,) = (row for row in found.rows if row.diverged)
    assert (row.start, row.moved, row.learned) == ("random labels", None, 0.2)
    (tmp_path / "tiny.json").write_text(compact(found))
    assert expand(tmp_path / "tiny.json") == found
    pytest.importorskip("matplotlib")
    text = STUDY.document(copied, tmp_path / "docs").read_text()
    assert "1 of 50 runs diverged" in text
    assert "Not complete" not in text


def test_nothing_begins_where_pruning_or_the_dense_run_has_diverged(
    results: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(results, tmp_path / "results"))
    run, word = run_of(SIGNS, sparse=True), "step 9: training diverged"

    def diverge(path: Path) -> None:
        whole = json.loads(path.read_text())
        whole["numbers"]["diverged"] = word
        path.write_text(json.dumps(whole))

    run.result(copied).unlink()
    diverge(run.dense.result(copied))  # after step k: that is no matter
    perform(run, copied)
    run.result(copied).unlink()
    diverge(run.chain.result(copied))
    with refuses(NonFiniteError, "rewind 4, seed 0 has no mask for round 3, as round 2", word):
        run.perform(TinyPlace(copied, {}), lambda done, total: None)
    late = replace(run, k=9, sparse=False)
    with refuses(NonFiniteError, "dense, seed 0 has no step 9 to go on from", word):
        late.perform(TinyPlace(copied, {}), lambda done, total: None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2}',
        '{"version": 1, "network": "x", "budget": "paper", "about": "", "runs": []}',
        '{"version": 1, "network": "lenet", "budget": "paper", "about": "", "runs": [{}]}',
    ],
)
def test_a_damaged_file_of_numbers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "lenet.json").write_text(text)
    with refuses(FormatError, "lenet.json"):
        expand(tmp_path / "lenet.json")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"about": "other data"}, "same data"),
        ({"accuracy": []}, "not the result of a run"),
        ({"moved": "far"}, "moved must be a number"),
        ({"remaining": None}, "remaining must be a number"),
        ({"steps": [4, 9]}, "9 steps, not 12"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(
    results: Path, tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    for run in (run_of(SIGNS, sparse=False), run_of(REWOUND, sparse=False)):
        path = run.result(tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = json.loads(run.result(results).read_text())
        path.write_text(json.dumps(whole))
    whole["numbers"] |= change
    path.write_text(json.dumps(whole))
    with refuses(FormatError, word):
        gather(tmp_path)


# --- what is said


def verdicts(outcome: Outcome) -> dict[str, str]:
    return {f"{one.start.name} less {one.claim.over.name}": one.verdict for one in judge(outcome)}


def test_a_claim_is_judged_by_paired_differences_of_sparse_networks() -> None:
    found = verdicts(
        outcome_of(
            {
                ("rewound", True): [0.95, 0.93, 0.97],
                ("initial", True): [0.94, 0.92, 0.96],  # worse by the same in every seed
                ("signs", True): [0.96, 0.94, 0.98],  # better
                ("shuffle layer", True): [0.90, 0.94, 0.96],  # worse, but not beyond the range
                ("rotation", True): [0.945, 0.925, 0.965],  # between
                ("shuffle filter", False): [0.1, 0.1, 0.1],  # dense alone: not judged
            }
        )
    )
    assert found == {
        "rewound less initial": "reproduced",
        "signs less rewound": "not reproduced",
        "shuffle layer less rewound": "no difference beyond the range over seeds",
        "rotation less initial": "reproduced",
        "rotation less rewound": "reproduced",
    }


def test_one_seed_is_not_judged() -> None:
    one = outcome_of({("rewound", True): [0.9], ("signs", True): [0.1]})
    assert verdicts(one) == {"signs less rewound": "one seed: not judged"}
    assert list(sentences(one)) == ["From step 500, sparse. Not judged: signs."]


def test_sentences_follow_the_numbers() -> None:
    outcome = outcome_of(
        {
            ("rewound", False): [0.95, 0.93],
            ("signs", False): [0.94, 0.92],
            ("noise 0.5", False): [0.955, 0.936],
            ("noise 1", False): [0.95, 0.93],
            ("rewound", True): [0.9, 0.9],
        }
    )
    said = list(sentences(outcome))
    assert said[0] == (
        "From step 500, dense. Better than rewinding: noise 0.5. Worse than rewinding: signs. "
        "No difference beyond the range over seeds: noise 1."
    )
    assert len(said) == 1
    failed = replace(outcome, rows=(*outcome.rows[1:], replace(outcome.rows[0], diverged="NaN")))
    assert "1 of 10 runs diverged" in list(sentences(failed))[-1]


def test_the_document_is_the_same_for_the_same_numbers(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = STUDY.document(results, tmp_path)
    text = path.read_text()
    assert path == tmp_path / "early-phase.md"
    assert "## tiny" in text
    assert "Seeds 0 and 1." in text
    assert "--network tiny --rewind 4 --seeds 2 --budget paper" in text
    assert "Not complete" not in text
    assert (tmp_path / "early-phase" / "tiny.png").stat().st_size > 1000
    for start in STARTS:
        assert f"| {start.name} |" in text
    (tmp_path / "early-phase" / "tiny.png").unlink()
    assert STUDY.document(None, tmp_path).read_text() == text
    assert (tmp_path / "early-phase" / "tiny.png").exists()
    assert "rewound" in STUDY.tables(results)
    assert len(STUDY.facts(results)["tiny"]) == 50


def test_a_document_says_what_is_missing_and_judges_no_quick_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "early-phase").mkdir()
    some = {("rewound", False): [0.9, 0.9], ("signs", False): [0.8, 0.8]}
    for name, budget in (("lenet", "paper"), ("lenet-quick", "quick")):
        path = tmp_path / "early-phase" / f"{name}.json"
        path.write_text(compact(outcome_of(some, budget)))
    long, quick = STUDY.document(None, tmp_path).read_text().split("## Quick runs")
    for text in (long, quick):
        assert "**Not complete.** 46 of 50 runs are not there." in text
        assert "-10.00 points" in text
    assert "Worse than rewinding: signs" in long
    assert "Worse than rewinding" not in quick


def test_starts_that_only_dense_runs_have_are_listed_with_the_others(tmp_path: Path) -> None:
    rows = {("noise 1", True): [0.9], ("signs", False): [0.8], ("rewound", False): [0.7]}
    outcome = outcome_of(rows)
    cells = [line.split("|")[1].strip() for line in starts_table(outcome, 500).splitlines()]
    assert cells[2:] == ["rewound", "signs", "noise 1"]
    assert outcome.starts(sparse=True) == ["noise 1"]
    for job in (run_of(NOISES[1], sparse=True), run_of(SIGNS, sparse=False)):
        numbers = {"start": job.start.name, "sparse": job.sparse, "seed": 0, "k": K, "about": "x"}
        numbers |= {"remaining": 1.0, "moved": 1.0, "change": 1.0, "learned": None}
        curve = {"steps": [K, STEPS], "accuracy": [0.1, 0.9], "diverged": ""}
        keep(job.result(tmp_path), {}, {**numbers, **curve})
    said = [line[:9].strip() for line in STUDY.tables(tmp_path).splitlines()]
    assert said[1:] == ["signs", "noise 1"]


def test_without_numbers_there_is_no_document(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for folder in (tmp_path, None):
        with refuses(InputNotFoundError, "early-phase"):
            STUDY.document(folder, tmp_path / "docs")
    assert not (tmp_path / "docs").exists()
    assert STUDY.tables(tmp_path) == ""
