"""Pruning with rewinding: chains against plain loops, how they go on, what is said of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from tiny_experiments import write_images
from torch import nn

from weightcast.apply import load_mask
from weightcast.apply.pruning import density, random_mask
from weightcast.experiments import imp_dense, imp_numbers, imp_runs, running
from weightcast.experiments.arm_run import Run, evaluate
from weightcast.experiments.batches import Batches, seed_of
from weightcast.experiments.comparing import compare
from weightcast.experiments.experiment import Experiment, Updates
from weightcast.experiments.imp import STUDY, plan
from weightcast.experiments.imp_dense import Dense
from weightcast.experiments.imp_findings import findings, matches
from weightcast.experiments.imp_numbers import Imp, Round
from weightcast.experiments.imp_protocols import PROTOCOLS, Drops, Protocol
from weightcast.experiments.imp_runs import Chain, go_on
from weightcast.experiments.jobs import Place
from weightcast.experiments.kept import keep, kept
from weightcast.experiments.loading import Data, load_data
from weightcast.experiments.networks import lenet, seeded
from weightcast.experiments.study import Request, with_needs
from weightcast.store import (
    FormatError,
    History,
    InputNotFoundError,
    NonFiniteError,
    OutputExistsError,
    UsageError,
)
from weightcast.store.ring import lock

STEPS, K, DROP = 12, 5, 4
ENTRY = Experiment(
    name="lenet",
    title="Twelve steps",
    paper="none",
    data="mnist",
    network="lenet",
    updates=Updates(
        "SGD", 0.1, {"momentum": 0.9, "weight_decay": 0.01}, Drops(gamma=0.5, at=(DROP, 9))
    ),
    batch=7,  # eight batches an epoch: a run rewound goes on within the first and enters the second
    steps=STEPS,
    evaluate_every=4,
    arms=(),
    averaged=False,
)
TINY = Protocol(ENTRY, (0, K), K, 2, 0.001, {"rewind 0": "works"}, tests=40)
WAYS = [("rewind", 0), ("rewind", K), ("random re-init", K), ("random pruning", K)]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, ("lenet", "paper"), TINY)
    monkeypatch.setitem(imp_numbers.ENTRIES, "lenet", TINY)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("imp") / "images")


def do(
    jobs: Sequence[Any], folder: Path, images: Path, progress: Callable[[int, int], None]
) -> None:
    place = Place(folder, {"mnist": images})
    for job in with_needs(jobs, folder):
        job.perform(place, progress)


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """Of all lines, with two seeds and two rounds."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, ("lenet", "paper"), TINY)
        do(plan(Request(seeds=2)), folder, images, quiet)
    return folder


@pytest.fixture
def copied(results: Path, tmp_path: Path) -> Path:
    """The results, to go on with."""
    return Path(shutil.copytree(results, tmp_path / "copied"))


def chain(way: Any = "rewind", step: int = K, rounds: int = 2, seed: int = 0) -> Chain:
    return Chain("lenet", "paper", seed, (0, K), way, step, rounds)


# The runs, against loops that are plain to see


def train(
    network: nn.Module, data: Data, begin: int, mask: Mapping[str, torch.Tensor], until: int = STEPS
) -> nn.Module:
    """SGD from a step on, under a mask: no hooks, no schedule, no history."""
    named = dict(network.named_parameters())
    with torch.no_grad():
        for name, stays in mask.items():
            named[name].mul_(stays)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    batches = Batches(60, 7, seed=0)
    for step in range(begin, until):
        optimizer.param_groups[0]["lr"] = 0.1 * (0.25 if step >= 9 else 0.5 if step >= DROP else 1)
        x, y = data.task.train_x[batches[step]], data.task.train_y[batches[step]]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            for name, stays in mask.items():
                named[name].mul_(stays)
    return network


def pruned(network: nn.Module, mask: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A fifth of what remains goes: by sorting all of it."""
    named = {name: p.detach() for name, p in network.named_parameters() if p.dim() > 1}
    left = torch.cat([named[name][mask[name]].abs() for name in named])
    edge = left.sort().values[round(0.2 * len(left))]
    return {name: mask[name] & (named[name].abs() >= edge) for name in named}


@pytest.mark.parametrize(("way", "step"), WAYS)
def test_chains_are_what_a_plain_loop_trains_prunes_and_rewinds(
    way: Any, step: int, results: Path, images: Path
) -> None:
    data = load_data("mnist", images)
    whole = {n: torch.ones_like(p).bool() for n, p in lenet().named_parameters() if p.dim() > 1}
    early = train(seeded(lenet, 0), data, 0, {}, until=step).state_dict()
    mask = pruned(train(seeded(lenet, 0), data, 0, {}), whole)
    for number in (1, 2):
        magnitude, network, begin = mask, seeded(lenet, 0), step
        if way == "random re-init":
            network, begin = seeded(lenet, seed_of(0, number, 3)), 0
        else:
            network.load_state_dict(early)
        if way == "random pruning":
            mask = random_mask(mask, seed_of(0, number, 4))
        train(network, data, begin, mask)
        home = chain(way, step).place_of(results)
        numbers = kept(home / f"round-{number:02}.json")
        assert numbers is not None
        accuracy = evaluate(network, data.task.validation_x[:40], data.task.validation_y[:40])
        assert numbers["steps"][-1] == STEPS
        assert numbers["accuracy"][-1] == pytest.approx(accuracy[1])
        assert numbers["loss"][-1] == pytest.approx(accuracy[0], abs=1e-5)
        assert numbers["remaining"] == pytest.approx(0.8**number, abs=1e-5) == density(mask)
        if way == "rewind":
            mask = pruned(network, mask)
            after = load_mask(home / f"mask-{number + 1:02}.safetensors")
            assert all(after[name].equal(mask[name]) for name in mask)
        else:  # the controls have the masks of the chain, whatever they themselves train
            original = load_mask(
                chain("rewind", step).place_of(results) / f"mask-{number + 1:02}.safetensors"
            )
            mask = {name: original[name] for name in magnitude}


def test_the_dense_run_leaves_a_history_of_the_steps_asked_for(results: Path) -> None:
    history = History(Dense("lenet", "paper", 0, (0, K)).history(results))
    assert history.steps.tolist() == [0, K, STEPS]


def test_seeds_differ_and_so_do_the_draws_of_rounds(results: Path) -> None:
    files = [chain("rewind", K, 1, seed).result(results) for seed in (0, 1)]
    assert len({json.dumps((kept(path) or {})["loss"]) for path in files}) == 2
    one, two = (kept(chain("random re-init", K, rounds).result(results)) or {} for rounds in (1, 2))
    assert one["loss"][0] != two["loss"][0]


# Going on


def numbers_of(folder: Path) -> dict[str, Any]:
    """All numbers but for seconds, by file."""
    found = {}
    for path in sorted((folder / "imp").glob("**/*.json")):
        if path.name == "zarr.json":
            continue
        whole = json.loads(path.read_text())
        found[str(path.relative_to(folder))] = (whole["made"], whole["numbers"] | {"seconds": 0})
    return found


def test_a_study_that_is_stopped_anywhere_in_any_order_ends_with_the_same_numbers(
    results: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_CHECKPOINT", 0.0)
    jobs = plan(Request(seeds=1))[::-1]
    stops = 0
    for at in range(1, 100, 3):
        left = iter(range(at))

        def stop(done: int, total: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        try:
            do(jobs, tmp_path, images, stop)
        except KeyboardInterrupt:
            stops += 1
        else:
            break
    assert stops > 3
    there = numbers_of(results)
    assert numbers_of(tmp_path) == {path: there[path] for path in there if "seed0" in path}
    assert not list(tmp_path.glob("imp/lenet/**/.*.pt"))


def test_a_checkpoint_is_gone_on_from(
    copied: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_CHECKPOINT", 0.0)
    home, seen = chain(step=0).place_of(copied), list[int]()
    shutil.rmtree(home)

    def stop_in_the_second_round(done: int, total: int) -> None:
        seen.append(done)
        if done == 20:  # after a checkpoint of its fourth step
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do([chain(step=0)], copied, images, stop_in_the_second_round)
    assert seen == [4, 8, 12, 16, 20]
    assert not (home / "mask-03.safetensors").exists()
    seen.clear()
    do([chain(step=0)], copied, images, lambda done, total: seen.append(done))
    assert seen == [20, 24]
    assert (home / "mask-03.safetensors").exists()


def test_more_rounds_go_on_from_those_that_are_done(
    results: Path, copied: Path, images: Path
) -> None:
    begun: list[int] = []
    do([chain(rounds=3)], copied, images, lambda done, total: begun.append(done))
    assert min(begun) > 2 * (STEPS - K)
    assert chain(rounds=3).result(copied).exists()
    assert numbers_of(copied).items() > numbers_of(results).items()


def test_results_made_otherwise_are_refused(
    copied: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = {"mnist": load_data("mnist", images)}, chain().result(copied)
    assert kept(path, chain().made(data))
    with refuses(OutputExistsError, "another round:"):
        kept(path, chain(rounds=1).made(data))
    with refuses(OutputExistsError, "steps [0, 5], without [3]: give", "dense-seed0.json"):
        Dense("lenet", "paper", 0, (0, 3)).perform(Place(copied, {"mnist": images}), quiet)
    before = numbers_of(copied)
    Dense("lenet", "paper", 0, (0,)).perform(Place(copied, {"mnist": images}), quiet)
    assert numbers_of(copied) == before  # a history with more steps will do
    other = replace(TINY, experiment=replace(ENTRY, batch=8))
    monkeypatch.setitem(PROTOCOLS, ("lenet", "paper"), other)
    with refuses(OutputExistsError, "another experiment:"):
        chain(rounds=3).perform(Place(copied, {"mnist": images}), quiet)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def without_training(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(imp_dense, "trained", None)
    patch.setattr(imp_runs, "trained", None)


def spoil(run: Run) -> None:
    for p in run.network.parameters():
        nn.init.constant_(p, torch.nan)


def test_a_chain_ends_with_the_round_that_diverged_and_says_so_again_without_training(
    copied: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = chain(rounds=4)
    with monkeypatch.context() as patch:
        patch.setattr(imp_runs, "go_on", lambda run, step: (go_on(run, step), spoil(run)))
        for job in (long, chain("random re-init", rounds=4)):
            with refuses(NonFiniteError, "rewind 5, seed 0 has no mask for round 4, as round 3"):
                job.perform(Place(copied, {"mnist": images}), quiet)
            home = job.place_of(copied)
            found = kept(home / "round-03.json") or {}
            assert found["diverged"].endswith("training diverged: weights are not finite")
            assert not {"mask-04.safetensors", "round-04.json"} & names_in(home)
    without_training(monkeypatch)
    with refuses(NonFiniteError, "round 3 diverged (step ", "no more than 3 rounds"):
        do([long], copied, images, quiet)
    assert "rewind 5, round 3, seed 0: step" in STUDY.tables(copied)
    chain(rounds=3).perform(Place(copied, {"mnist": images}), quiet)


def test_nothing_goes_on_from_a_dense_run_that_diverged(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = replace(ENTRY, updates=replace(ENTRY.updates, lr=1e38))
    monkeypatch.setitem(PROTOCOLS, ("lenet", "paper"), replace(TINY, experiment=wild))
    for _ in range(2):
        with refuses(NonFiniteError, "dense, seed 0 has no step 12 to go on from (step 4: train"):
            do([chain()], tmp_path, images, quiet)
        without_training(monkeypatch)


def test_a_chain_waits_for_another_in_its_folder_and_takes_up_what_that_has_done(
    results: Path, copied: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = chain().place_of(copied)
    shutil.rmtree(home)
    home.mkdir()
    others = lock(home / ".lock", create=True)
    assert others is not None
    waited: list[float] = []

    def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        assert names_in(home) == {".lock"}
        shutil.copytree(chain().place_of(results), home, dirs_exist_ok=True)
        os.close(others)

    monkeypatch.setattr(imp_runs.time, "sleep", meanwhile)
    without_training(monkeypatch)
    do([chain()], copied, images, quiet)
    assert len(waited) == 1
    assert names_in(home) == names_in(chain().place_of(results))


# What is planned


def test_a_plan_has_a_line_a_step_and_controls_of_the_nearest() -> None:
    chains = plan(Request(seeds=2, rewind=(0, 3, 9), rounds=4))
    assert [(c.seed, c.name) for c in chains[:6]] == [
        (0, "rewind 0"),
        (0, "rewind 3"),
        (0, "rewind 9"),
        (0, "random re-init 3"),
        (0, "random pruning 3"),
        (1, "rewind 0"),
    ]
    jobs = with_needs(chains)
    assert len(jobs) == 12
    assert jobs[0] == Dense("lenet", "paper", 0, (0, 3, K, 9))
    assert {c.rounds for c in chains} == {4}
    longer = sum(job.seconds for job in with_needs(plan(Request(seeds=2, rounds=3))))
    assert longer > sum(job.seconds for job in with_needs(plan(Request(seeds=2))))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(rewind=(0, STEPS)), "must be from 0 to 11, as the run of lenet has 12 steps"),
        (Request(rewind=(-1,)), "got -1"),
        (Request(rewind=(3, 0, 3)), "must be distinct: got 3 more than once"),
        (Request(rounds=0), "must be from 1 to 50: got 0"),
        (Request(rounds=51), "got 51"),
        (Request(networks=("vgg",)), "must be one of lenet, resnet20: got 'vgg'"),
    ],
)
def test_what_cannot_be_is_refused(request_: Request, words: str) -> None:
    with refuses(UsageError, words):
        plan(request_)


def test_every_protocol_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for network, budget in PROTOCOLS:
        jobs = with_needs(plan(Request((network,), 3, budget)))  # type: ignore[arg-type]
        assert len(jobs) == 3 * 7
        published = set(PROTOCOLS[network, budget].published)
        assert published <= {job.name for job in jobs if isinstance(job, Chain)}


# What is said of it

SHARES = {1: 0.8, 2: 0.64, 3: 0.512}
Curves = dict[str, list[list[float]]]  # by line: for each round the accuracy of each seed


def made_up(curves: Curves, dense: Sequence[float] = (0.90, 0.91, 0.92)) -> Imp:
    rounds = [Round("dense", s, 0, 1.0, [0, 9], [0.1, a], 1.0, "") for s, a in enumerate(dense)]
    rounds += [
        Round(line, seed, number, SHARES[number], [0, 9], [0.1, accuracy], 1.0, "")
        for line, by_round in curves.items()
        for number, accuracies in enumerate(by_round, 1)
        for seed, accuracy in enumerate(accuracies)
    ]
    return Imp(TINY, "made up", {}, tuple(rounds))


SAME, BETTER, WORSE = [0.90, 0.915, 0.915], [0.92, 0.93, 0.941], [0.88, 0.89, 0.899]


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        ([SAME, BETTER, SAME], "matches the dense network down to 51.2 % of the weights, the few"),
        ([SAME, WORSE, SAME], "down to 80.0 % of the weights; with 64.0 % it is worse, -2.00 poi"),
        ([WORSE, SAME, SAME], "does not match the dense network: with 80.0 % it is worse, -2.00 "),
        ([[0.9], [0.9]], "not judged, as that takes two seeds"),
        ([SAME, [0.8]], "down to 80.0 % of the weights; with fewer there are no two seeds"),
    ],
)
def test_how_far_a_line_matches(rounds: list[list[float]], words: str) -> None:
    assert words in matches(made_up({"rewind 0": rounds}), "rewind 0")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(85, 95), min_size=3, max_size=3), min_size=1, max_size=3))
def test_what_is_said_to_match_is_never_worse_up_to_there(rounds: list[list[int]]) -> None:
    imp = made_up({"rewind 0": [[a / 100 for a in by_seed] for by_seed in rounds]})
    last = imp.matching("rewind 0")
    assert last is not None
    verdicts = [compare(imp.at_end("rewind 0", n), imp.dense, fewer=False) for n in imp.remaining]
    assert -1 not in verdicts[:last]
    assert last == len(rounds) or verdicts[last] == -1


def test_lines_are_compared_with_earlier_steps_and_controls_with_their_masks() -> None:
    curves = {
        "random pruning 7": [WORSE, WORSE],
        "rewind 12": [SAME, BETTER],
        "rewind 7": [SAME, SAME],
        "random re-init 7": [BETTER, SAME],
    }
    imp = made_up(curves)
    assert imp.lines == ["rewind 7", "rewind 12", "random pruning 7", "random re-init 7"]
    said = findings(imp)
    assert "With 64.0 % of the weights, rewind 12 is better than rewind 7: +2.00 poi" in said[2]
    assert "random pruning 7, against rewind 7: of 2 shares of the weights, it is w" in said[3]
    assert "worse at 2, better at 0, and at 0 there" in said[3]
    assert "worse at 0, better at 1, and at 1 there" in said[4]
    diverged = replace(imp.rounds[-1], diverged="step 3: weights are not finite")
    said = findings(replace(imp, rounds=(*imp.rounds[:-1], diverged)))
    assert said[-1] == "random re-init 7, round 2, seed 2: step 3: weights are not finite."


def test_the_document_is_made_of_the_results_and_again_of_its_own_numbers(
    results: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    path = STUDY.document(results, tmp_path)
    text, picture = path.read_text(), (tmp_path / "imp/lenet.png").read_bytes()
    assert "| weights | rewind 0 | rewind 5 | random pruning 5 | random re-init 5 |" in text
    assert "--rewind 0,5 --rounds 2 --seeds 2" in text
    assert "Seeds 0 and 1: 18 runs" in text
    assert "| rewind 0 | works |" in text
    assert "times 0.5 at steps 4 and 9" in text
    assert "Not complete" not in text
    assert "Out of date" not in text
    for line in STUDY.tables(results).splitlines():
        assert line in text or line.startswith("lenet: dense")
    assert STUDY.document(None, tmp_path).read_text() == text
    assert (tmp_path / "imp/lenet.png").read_bytes() == picture
    facts = STUDY.facts(results)
    assert [len(one["runs"]) for one in facts] == [18]
    assert facts[0]["matches down to"].keys() == {"rewind 0", "rewind 5"}


def test_the_document_says_what_is_missing_and_what_has_changed(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    STUDY.document(results, tmp_path)
    path = tmp_path / "imp/lenet.json"
    numbers = kept(path) or {}
    gone = ("rewind 5", 2, 1)
    numbers["rounds"] = [
        run for run in numbers["rounds"] if (run["line"], run["round"], run["seed"]) != gone
    ]
    keep(path, {}, numbers)
    changed = replace(TINY, experiment=replace(ENTRY, batch=8))
    monkeypatch.setitem(imp_numbers.ENTRIES, "lenet", changed)
    text = STUDY.document(None, tmp_path).read_text()
    assert "Rounds that lack: of rewind 5 with seed 1 (1 of 2)." in text
    assert "Since these runs were made, batch changed." in text


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": []},
        {"accuracy": None},
        {"line": "](http://elsewhere) 5"},
        {"remaining": 1.5},
        {"seed": "one"},
    ],
)
def test_numbers_that_are_none_are_refused(
    change: dict[str, Any], results: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    STUDY.document(results, tmp_path)
    numbers = kept(tmp_path / "imp/lenet.json") or {}
    numbers["rounds"][3] |= change
    keep(tmp_path / "imp/lenet.json", {}, numbers)
    before = (tmp_path / "imp.md").read_bytes()
    with refuses(FormatError, "not of a round of pruning"):
        STUDY.document(None, tmp_path)
    assert (tmp_path / "imp.md").read_bytes() == before


def test_no_numbers_no_document(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with refuses(InputNotFoundError, "no numbers of imp"):
        STUDY.document(tmp_path, tmp_path / "docs")
    assert STUDY.tables(tmp_path) == ""
    assert STUDY.facts(tmp_path) == []


def test_results_without_numbers_are_noticed_beside_a_document_that_has_some(
    results: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    before = STUDY.document(results, tmp_path / "docs").read_bytes()
    (tmp_path / "none").mkdir()
    with refuses(InputNotFoundError, "no numbers of imp in", "none: run it first"):
        STUDY.document(tmp_path / "none", tmp_path / "docs")
    assert (tmp_path / "docs/imp.md").read_bytes() == before


def test_what_is_noted_of_a_protocol_is_true_of_any_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    entry = PROTOCOLS["lenet", "paper"].experiment
    seen = entry.steps * entry.batch
    assert f"{entry.steps:,} steps are {seen // 60_000} passes" in entry.notes[0]
    assert f"over as many images, or {seen // 10_000} over 10,000." in entry.notes[0]
    assert "here" not in entry.notes[0]
