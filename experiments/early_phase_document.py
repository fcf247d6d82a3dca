"""The document of the study of the early phase: tables, pictures, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weightcast.experiments.early_phase_figure import save_figure
from weightcast.experiments.early_phase_findings import judge, sentences
from weightcast.experiments.early_phase_numbers import Outcome, compact, expand, gather
from weightcast.experiments.early_phase_runs import FOLDER, runs_of
from weightcast.experiments.early_phase_starts import REWOUND
from weightcast.experiments.imp_protocols import PROTOCOLS
from weightcast.experiments.sections import bullets
from weightcast.experiments.wording import count, listed, percent, points, spread, table
from weightcast.store import InputNotFoundError
from weightcast.store.extras import require_matplotlib
from weightcast.store.output import write_text

TITLE = "What a network must have early in training"
_WHERE = {False: "dense", True: "sparse"}

_HOW = """\
Frankle, Schwab and Morcos ([arXiv 2002.10365](https://arxiv.org/abs/2002.10365), ICLR 2020) ask
what in the weights of an early step k it is that sparse networks train well from. They put other
weights in their place, and train from step k to the end. Here the same is done with dense networks
too. Sparse ones have the mask of magnitude pruning with rewinding to k (`weightcast reproduce
imp`); weights of step k are from the history of the dense run of the same seed. All runs of a step
k take the same batches at the same learning rates, and begin with a new optimizer state.

- **rewound**: the weights of step k. **initial**: those of step 0, trained as long as the others.
- **signs**: signs of step k, magnitudes drawn from those of step 0 of the same layer. **shuffle
  filter, layer, global**: the weights of step k permuted within each filter (of a linear layer: the
  weights into one unit), each layer, or the network. **noise 0.5, 1, 2**: normal noise, its
  standard deviation so many times that of the layer's change from step 0 to k. These sizes are
  ours, not the paper's. Weights of two or more dimensions are perturbed; biases and norm parameters
  are as at step k. In sparse networks the weights that remain are perturbed among themselves.
- **random labels**: k steps from the initial weights with the training labels dealt out anew.
  **rotation**: k steps of telling by how many quarter turns an image is rotated, each image in all
  four positions, never cropped or mirrored; then the last layer is put back to its initial weights.
  A sparse network has its mask put on after that. **random labels, sparse**; **rotation, sparse**;
  **supervised, sparse**: k steps with the mask held from step 0 on.

Numbers are test accuracies after the last step, single evaluations: medians over the seeds, with
their range in parentheses. Differences are between runs of the same seed. A start is called better
or worse than another if the median difference is larger than the range of the differences, from the
least to the most: with three seeds, chance alone gets there about once in ten times. Many
comparisons are made, and none is corrected for that. A claim of the paper is *reproduced* if our
sparse networks differ in its direction, *not reproduced* if in the other one. Its claims are of
deep networks; of small ones its introduction says that initial weights were enough, so that of
LeNet one should expect less. We quote its abstract and introduction only: it has experiments on
noise and on random labels too, and what it finds there is not judged here.
"""
_QUICK = """\
These ran at a small part of their length: this shows that they run, and says nothing about how well
a start trains.
"""


def write_document(results: Path | None, docs: Path) -> Path:
    """Bring numbers to ``DOCS/early-phase/``, if results are given, and make the document of them.

    Raises
    ------
    InputNotFoundError
        If there are none.
    FormatError
        If a file is damaged.
    MissingExtraError
        If matplotlib is not installed; nothing is written then.
    """
    require_matplotlib()
    found = {} if results is None else gather(results)
    if results is not None and not found:
        raise InputNotFoundError(f"no results of {FOLDER} in {results}")
    for name, outcome in found.items():
        write_text(docs / FOLDER / f"{name}.json", compact(outcome))
    every = read(docs)
    if not every:
        raise InputNotFoundError(f"no numbers in {docs / FOLDER}: give a folder of results")
    text = document(every)
    for outcome in every:
        save_figure(outcome, docs / FOLDER / f"{outcome.folder}.png")
    target = docs / f"{FOLDER}.md"
    write_text(target, text)
    return target


def read(docs: Path) -> list[Outcome]:
    """The numbers that a document's folder has, of all networks."""
    folders = [protocol.experiment.folder for protocol in PROTOCOLS.values()]
    paths = [docs / FOLDER / f"{folder}.json" for folder in folders]
    return [expand(path) for path in paths if path.exists()]


def document(every: Sequence[Outcome]) -> str:
    """The text, in Markdown."""
    long = [outcome for outcome in every if outcome.budget == "paper"]
    quick = [outcome for outcome in every if outcome.budget == "quick"]
    made = f"Generated by `weightcast reproduce {FOLDER}`; the numbers are in `{FOLDER}/*.json`."
    parts = [f"# {TITLE}", made, _HOW.strip()]
    parts += [part for outcome in long for part in section(outcome)]
    if quick:
        parts += ["## Quick runs", _QUICK.strip()]
        parts += [part for outcome in quick for part in section(outcome)]
    return "\n\n".join(part for part in parts if part) + "\n"


def section(outcome: Outcome) -> Iterator[str]:
    """The part of a network; of quick runs there is nothing to say."""
    long = outcome.budget == "paper"
    yield f"{'##' if long else '###'} {outcome.folder}"
    yield protocol(outcome)
    yield bullets(outcome.protocol.experiment.notes)
    yield from _gaps(outcome)
    yield f"![Accuracy by start: {outcome.folder}]({FOLDER}/{outcome.folder}.png)"
    for k in outcome.steps:
        yield f"From step {count(k)}:\n\n{starts_table(outcome, k)}"
    if long:
        yield f"What the paper says, beside our sparse networks:\n\n{claims_table(outcome)}"
        yield bullets(list(sentences(outcome)))
    yield f"```console\n$ {command(outcome)}\n```"


def protocol(outcome: Outcome) -> str:
    """What was run, in a few sentences."""
    entry = outcome.protocol.experiment
    shares = sorted({row.remaining for row in outcome.rows if row.sparse})
    texts = [f"{entry.title}. Data: {outcome.about}."]
    if outcome.protocol.tests is not None:
        texts.append(f"The first {outcome.protocol.tests:,} test images judge.")
    texts.append(
        f"{entry.updates.name}, learning rate {entry.updates.lr:g}; batches of {entry.batch}; the "
        f"whole run has {entry.steps:,} steps."
    )
    if shares:
        texts.append(
            f"Sparse networks have {listed(f'{100 * s:.1f} %' for s in shares)} of the weights."
        )
    seeds = outcome.seeds
    texts.append(f"Seed{'s'[: len(seeds) > 1]} {listed(seeds)}.")
    return " ".join(texts)


def _gaps(outcome: Outcome) -> Iterator[str]:
    there = {(row.start, row.k, row.sparse, row.seed) for row in outcome.rows}
    planned = {
        (run.start.name, run.k, run.sparse, seed)
        for seed in outcome.seeds
        for run in runs_of(outcome.network, outcome.budget, seed, tuple(outcome.steps))
    }
    if missing := planned - there:
        yield f"**Not complete.** {len(missing)} of {len(planned)} runs are not there."


def starts_table(outcome: Outcome, k: int) -> str:
    """Every start from a step: medians over the seeds, and their ranges."""
    columns = ["start"]
    for kind in _WHERE.values():
        columns += [f"{kind}: before", "at the end", "less rewound"]
    columns.append("distance from step k, over that of step k from 0")
    rows = []
    for name in outcome.starts():
        row = [name]
        for sparse in _WHERE:
            before = outcome.numbers("before", name, k, sparse=sparse)
            gain = outcome.gain(name, k, sparse=sparse)
            row += [
                percent(before.median) if before.median is not None else "",
                spread(outcome.accuracy(name, k, sparse=sparse), percent),
                spread(gain, points) if name != REWOUND.name else "",
            ]
        rows.append([*row, _distance(outcome, name, k)])
    return table(columns, rows)


def _distance(outcome: Outcome, name: str, k: int) -> str:
    """Of dense and of sparse networks: medians."""
    said = []
    for sparse in _WHERE:
        moved, change = (
            outcome.numbers(what, name, k, sparse=sparse) for what in ("moved", "change")
        )
        if (share := moved.of(change).median) is not None:
            said.append(f"{share:.2f}")
    return ", ".join(said)


def claims_table(outcome: Outcome) -> str:
    """The paper's sentences beside ours."""
    columns = ["the paper", "compared", "k", "sparse", "dense", "verdict"]
    rows, said = [], ""
    for one in judge(outcome):
        rows.append(
            [
                one.claim.text if one.claim.text != said else "",
                f"{one.start.name} less {one.claim.over.name}",
                count(one.k),
                spread(one.gain, points),
                spread(one.dense, points),
                one.verdict,
            ]
        )
        said = one.claim.text
    return table(columns, rows)


def command(outcome: Outcome) -> str:
    """That makes these runs."""
    words = ["weightcast reproduce", FOLDER, "--network", outcome.network]
    words += ["--rewind", ",".join(map(str, outcome.steps)), "--seeds", str(len(outcome.seeds))]
    return " ".join([*words, "--budget", outcome.budget, "--data DIR -o results/"])


def tables(results: Path) -> str:
    """What is there, of all networks, as text."""
    lines = []
    for outcome in gather(results).values():
        for k in outcome.steps:
            lines.append(f"{outcome.folder}, from step {count(k)}: test accuracy at the end")
            for name in outcome.starts():
                ends = [
                    spread(outcome.accuracy(name, k, sparse=sparse), percent) for sparse in _WHERE
                ]
                lines.append(f"  {name:<22}  {ends[0]:<24}  {ends[1]}".rstrip())
    return "\n".join(lines)


def facts(results: Path) -> Any:
    """The same as JSON: the runs of every network."""
    return {
        name: [row.__dict__ for row in outcome.rows] for name, outcome in gather(results).items()
    }
