"""Cards, and forecasters that are pushed and pulled: folders, and a Hub in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hub_server import TOKEN, Hub, serving
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from store_reference import refuses
from support import Pipeline

from weightcast.cli.main import main
from weightcast.predictor import (
    Errors,
    Introspection,
    LinearFit,
    SklearnForecaster,
    card_text,
    load,
    load_with_card,
    make_card,
    pull,
    push,
    save,
)
from weightcast.predictor.cards import escaped
from weightcast.predictor.files import MOST_BYTES
from weightcast.predictor.sharing import Repository
from weightcast.store import (
    Dataset,
    FormatError,
    InputNotFoundError,
    MissingExtraError,
    OutputExistsError,
    RemoteError,
    UsageError,
)

Captured = pytest.CaptureFixture[str]
CARD = {"date": "2026-11-21", "errors": [{"group": "t = 500", "count": 7, "forecaster": 0.00123}]}
NAME = "hf://somebody/line-1.0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a forecaster of each kind."""
    monkeypatch.chdir(tmp_path)
    save(LinearFit(), "fit.safetensors", card=CARD)
    X = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    trees = HistGradientBoostingRegressor(max_iter=2)
    for name, regressor in (("ridge", Ridge()), ("trees", trees)):
        save(SklearnForecaster(regressor).fit(X, X[:, 0]), f"{name}.skops", card=CARD)
    return tmp_path


def contents(folder: str | Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


# ---- cards


def test_a_card_says_where_a_forecaster_comes_from(pipeline: Pipeline) -> None:
    dataset = Dataset(pipeline.dataset)
    errors = [Errors("all", 10, forecaster=0.1, last_value=0.2, linear_fit=0.4)]
    card = make_card([dataset], errors=errors, seed=np.int64(3), command="fit", note=[1])
    assert card == json.loads(json.dumps(card))
    assert (card["seed"], card["command"], card["note"]) == (3, "fit", [1])
    (described,) = card["datasets"]
    assert described["path"] == str(pipeline.dataset)
    assert described["samples"] == len(dataset)
    assert described["recipe"] == dataset.recipe.to_json()
    (history,) = described["histories"]
    assert history["digest"] == dataset.origins[0].digest
    assert len(card["date"]) == 10
    assert card["errors"][0]["last_value"] == 0.2


def test_the_card_of_a_fit_from_the_command_line(pipeline: Pipeline) -> None:
    card = load_with_card(pipeline.forecaster)[1]
    assert card["datasets"][0]["histories"][0]["digest"]
    assert card["errors"]
    assert card["seed"] == 0


def test_a_card_as_markdown() -> None:
    model = Introspection(steps=1, hidden=3, context=(1.0, "t-25"), horizon=("+500", 2.0))
    text = card_text(model.fit(np.zeros((2, 2)), np.zeros(2)), CARD)
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["tags"] == ["weightcast", "introspection"]
    for line in ("# introspection", "| context | 1,t-25 |", "| horizon | t+500, 2t |"):
        assert line in body.splitlines()
    assert "| group | count | forecaster |\n|---|---|---|\n| t = 500 | 7 | 0.00123 |\n" in body
    assert "hidden=3" in body
    shown = body.split("```json\n")[1].split("\n```")[0]
    assert json.loads(shown) == {"date": CARD["date"]}  # the errors are in the table


def test_a_card_of_before_has_its_errors_shown() -> None:
    old = {"held_out": {"share": 0.1, "errors": CARD["errors"]}}
    assert "| t = 500 | 7 | 0.00123 |" in card_text(LinearFit(), old)


def test_errors_on_another_run_are_a_table_too() -> None:
    other = {"held_out": "another run", "errors": CARD["errors"], "seed": 1}
    text = card_text(LinearFit(), {"other_run": other, "x": {"errors": [5]}})
    assert "## Mean absolute error on another run\n" in text
    assert text.count("t = 500") == 1
    shown = json.loads(text.split("```json\n")[1].split("\n```")[0])
    assert shown == {"other_run": {"held_out": "another run", "seed": 1}, "x": {"errors": [5]}}


@pytest.mark.parametrize(
    ("trust", "option"),
    [
        (["a.B", "c.D"], " --trust a.B --trust c.D\n"),
        (["a.B; rm -r ."], "\n"),
        (["a.B\n# x"], "\n"),
        (["a.B", 5], "\n"),
        ("a.B", "\n"),
    ],
)
def test_the_types_that_a_file_needs_are_named(trust: Any, option: str) -> None:
    used = card_text(LinearFit(), {"trust": trust}).split("```json")[0]
    assert f"weightcast evaluate forecaster.safetensors run.zarr{option}" in used


def test_harmless_marks_are_left_as_they_are() -> None:
    text = "a-b (c+d): 1.5, mean:800/25!"
    assert escaped(text) == text
    assert escaped("http://a www.a :b: [](c)") == r"http\://a www\.a \:b: \[\]\(c)"


HOSTILE = [
    "\x1b[31mred\x07", "</td><script>", "](http://evil)", "a|b", "```\n# h", "\u202eabc",
    "- x\n---",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_card_stays_text(text: str, folder: Path, capsys: Captured) -> None:
    card: Any = {"note": text, "held_out": text, text: 1, "errors": [{"group": text, text: text}]}
    save(LinearFit(), "f.safetensors", card=card)
    assert main(["card", "f.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in shown)
    before, _, rest = shown.partition("```json\n")
    assert json.loads(rest.split("\n```")[0]) == {k: v for k, v in card.items() if k != "errors"}
    outside = before.split("---\n", 2)[2] + rest.split("\n```\n", 1)[1]
    assert "<script" not in outside.replace("\\<", "")
    assert "](" not in outside
    assert "| a|b |" not in outside
    assert len([line for line in outside.splitlines() if line.startswith("#")]) == 4
    assert main(["card", "f.safetensors", "--json"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown)["card"] == card
    assert "\x1b" not in shown


@given(st.text())
def test_escaped_text_is_one_line_without_markdown(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable()
    plain = shown.replace("\\\\", "")
    for mark in "`*_[]<>|#":
        assert plain.count(mark) == plain.count(f"\\{mark}")


@given(st.dictionaries(st.sampled_from(["errors", "held_out", "x"]), st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=4) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)))  # fmt: skip
def test_any_card_can_be_shown(card: dict[str, Any]) -> None:
    text = card_text(LinearFit(), card)
    assert text.isascii() or all(c.isprintable() or c == "\n" for c in text)


def test_the_card_of_types_that_nobody_trusts(folder: Path, capsys: Captured) -> None:
    assert main(["card", "trees.skops"]) == 0
    assert "HistGradientBoostingRegressor(max\\_iter=2)" in capsys.readouterr().out


def test_the_card_of_what_is_not_there(capsys: Captured) -> None:
    assert main(["card", "lime"]) == 2
    assert "did you mean 'line'?" in capsys.readouterr().err


# ---- folders


@pytest.mark.parametrize("file", ["fit.safetensors", "ridge.skops", "trees.skops"])
def test_what_is_pushed_into_a_folder_is_pulled_again(
    file: str, folder: Path, capsys: Captured
) -> None:
    before, suffix = Path(file).read_bytes(), Path(file).suffix
    assert main(["push", file, "shared/here"]) == 0
    assert "shared/here" in capsys.readouterr().out
    assert sorted(contents("shared/here")) == ["README.md", f"forecaster{suffix}"]
    assert "t = 500" in Path("shared/here/README.md").read_text()
    assert main(["pull", "shared/here", "-o", f"back{suffix}"]) == 0
    assert Path(f"back{suffix}").read_bytes() == before
    assert sorted(p.name for p in Path("shared").iterdir()) == ["here"]


def test_a_pretrained_forecaster_is_pushed_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightcast.predictor.by_name.FOLDER", folder)
    push("fit", "shared")
    assert contents("shared")["forecaster.safetensors"] == Path("fit.safetensors").read_bytes()
    with refuses(UsageError, "line", "needs no training"):
        push("line", "other")


def test_a_push_is_replaced_only_when_told(folder: Path, capsys: Captured) -> None:
    push("fit.safetensors", "shared")
    before = contents("shared")
    assert main(["push", "ridge.skops", "shared"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert contents("shared") == before
    assert main(["push", "ridge.skops", "shared", "--overwrite"]) == 0
    assert sorted(contents("shared")) == ["README.md", "forecaster.skops"]
    Path("empty").mkdir()
    push("ridge.skops", "empty")
    assert contents("empty") == contents("shared")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "README.md", ".git"])
def test_a_folder_of_other_things_is_kept(name: str, overwrite: bool, folder: Path) -> None:
    Path("mine").mkdir()
    Path("mine", name).write_text("mine")
    with refuses(OutputExistsError, "mine", name):
        push("fit.safetensors", "mine", overwrite=overwrite)
    assert contents("mine") == {name: b"mine"}
    with refuses(OutputExistsError, "ridge.skops", "is a file"):
        push("fit.safetensors", "ridge.skops", overwrite=overwrite)


def test_pull_refuses_before_it_writes(folder: Path) -> None:
    push("fit.safetensors", "shared")
    before = {p.name for p in Path().iterdir()}
    with refuses(UsageError, "a.skops", "a.safetensors"):
        pull("shared", "a.skops")
    with refuses(OutputExistsError, "ridge.skops", "--overwrite"):
        pull("shared", "ridge.skops")
    with refuses(InputNotFoundError, "nowhere", "neither"):
        pull("nowhere", "a.safetensors")
    with refuses(UsageError, "fit.safetensors", "is a file"):
        pull("fit.safetensors", "a.safetensors")
    Path("shared/forecaster.skops").write_bytes(b"")
    with refuses(InputNotFoundError, "shared", "both"):
        pull("shared", "a.safetensors")
    assert {p.name for p in Path().iterdir()} == before


@pytest.mark.parametrize("file", ["fit.safetensors", "ridge.skops"])
def test_what_is_damaged_is_neither_pushed_nor_pulled(file: str, folder: Path) -> None:
    push(file, "shared")
    (shared,) = Path("shared").glob("forecaster*")
    for path in (Path(file), shared):
        path.write_bytes(path.read_bytes()[:-9])
    with refuses(FormatError, file):
        push(file, "other")
    with refuses(FormatError, shared.name):
        pull("shared", Path("back").with_suffix(Path(file).suffix))
    assert not Path("other").exists()
    assert not list(Path().glob("back*"))


# ---- addresses


@pytest.mark.parametrize(
    "address",
    [
        "hf://", "hf://me", "hf://me/", "hf:///x", "hf://me/x/y", "hf://../x", "hf://me/..",
        "hf://me/x@", "hf://me/x@../y", "hf://me/x@a..b", "hf://me/x@-v", "hf://me/x y",
        "hf://me/x.git", "hf://me/a--b", "hf://me/a..b", "hf://me/x?y=1", "hf://me/x#y",
        "hf://me/-x", "hf://me/x\n", "hf://me@v/x", "https://huggingface.co/me/x", "s3://me/x",
        "hf://me/" + "a" * 97, "HF://me/x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_before_any_request(address: str, folder: Path) -> None:
    for call in (lambda: push("fit.safetensors", address), lambda: pull(address, "a.safetensors")):
        with refuses(UsageError, "hf://owner/name"):
            call()


@given(st.text(max_size=12), st.text(max_size=12))
def test_an_address_that_is_read_holds_names_only(name: str, revision: str) -> None:
    """Nothing in it ends the path of a request, or leads out of it."""
    try:
        found = Repository.of(f"hf://{name}@{revision}")
    except UsageError:
        return
    assert found is not None
    assert found.name.count("/") == 1
    for text in (found.name, found.revision or ""):
        assert text.isascii()
        assert not set(text) & set("?#%\\ \n\x00@:")
        assert ".." not in text


# ---- the Hub


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield hub


@pytest.mark.parametrize("file", ["fit.safetensors", "ridge.skops"])
def test_what_is_pushed_to_the_hub_is_pulled_again(
    file: str, hub: Hub, folder: Path, capsys: Captured
) -> None:
    suffix = Path(file).suffix
    assert main(["push", file, NAME]) == 0
    assert f"{hub.endpoint}/somebody/line-1.0/commit/" in capsys.readouterr().out
    files = hub.files("somebody/line-1.0")
    assert files is not None
    assert files[f"forecaster{suffix}"] == Path(file).read_bytes()
    assert "t = 500" in files["README.md"].decode()
    assert main(["pull", NAME, "-o", f"back{suffix}"]) == 0
    assert Path(f"back{suffix}").read_bytes() == Path(file).read_bytes()
    assert not hub.repositories["somebody/line-1.0"]["private"]


def test_a_revision_of_the_hub(hub: Hub, folder: Path) -> None:
    push("fit.safetensors", NAME)
    first = hub.sha("somebody/line-1.0")
    save(LinearFit(horizon=3.0), "fit.safetensors", overwrite=True)
    push("fit.safetensors", NAME, overwrite=True)
    pull(f"{NAME}@{first}", "first.safetensors")
    pull(NAME, "last.safetensors")
    assert (load("first.safetensors").horizon, load("last.safetensors").horizon) == (2.0, 3.0)
    with refuses(RemoteError, "somebody/line-1.0", "no such revision"):
        pull(f"{NAME}@v9", "a.safetensors")


def test_a_push_to_the_hub_is_replaced_when_told(hub: Hub, folder: Path, capsys: Captured) -> None:
    push("fit.safetensors", NAME)
    before = hub.files("somebody/line-1.0")
    assert main(["push", "ridge.skops", NAME]) == 2
    assert "README.md, forecaster.safetensors already" in capsys.readouterr().err
    assert hub.files("somebody/line-1.0") == before
    push("ridge.skops", NAME, overwrite=True)
    assert sorted(hub.files("somebody/line-1.0") or ()) == ["README.md", "forecaster.skops"]


def test_private_repositories(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push("fit.safetensors", NAME, private=True)
    assert hub.repositories["somebody/line-1.0"]["private"]
    push("fit.safetensors", NAME, private=True, overwrite=True)
    pull(NAME, "a.safetensors")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with refuses(RemoteError, NAME, "not there, or not for you", "HF_TOKEN"):
        pull(NAME, "b.safetensors")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push("fit.safetensors", "hf://somebody/open")
    with refuses(UsageError, "public"):
        push("fit.safetensors", "hf://somebody/open", private=True, overwrite=True)
    with refuses(UsageError, "--private"):
        push("fit.safetensors", "here", private=True)


def test_without_a_token(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push("fit.safetensors", NAME)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    asked = len(hub.requests)
    with refuses(RemoteError, NAME, "hf auth login", "HF_TOKEN"):
        push("fit.safetensors", NAME, overwrite=True)
    assert len(hub.requests) == asked
    pull(NAME, "a.safetensors")


def test_a_token_that_is_not_valid(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(["push", "fit.safetensors", NAME]) == 1
    shown = capsys.readouterr().err
    assert "HF_TOKEN" in shown
    assert shown.count("\n") == 1
    assert hub.repositories == {}


def test_what_is_not_on_the_hub(hub: Hub, folder: Path, capsys: Captured) -> None:
    assert main(["pull", "hf://nobody/nothing", "-o", "a.safetensors"]) == 1
    shown = capsys.readouterr().err
    assert "hf://nobody/nothing is not there" in shown
    assert shown.count("\n") == 1
    hub.repositories["somebody/other"] = {"private": False, "commits": []}
    hub.commit("somebody/other", {"model.safetensors": b""})
    with refuses(InputNotFoundError, "hf://somebody/other", "forecaster.safetensors"):
        pull("hf://somebody/other", "a.safetensors")


def test_no_hub_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for words in (["push", "fit.safetensors", NAME], ["pull", NAME, "-o", "a.safetensors"]):
        assert main(words) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("weightcast: the Hub")
        assert shown.count("\n") == 1


def test_a_commit_of_somebody_else_meanwhile(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they pushed is not replaced by what was made of the state before."""
    push("fit.safetensors", NAME)
    whole = Hub.sha
    monkeypatch.setattr(Hub, "sha", lambda self, *a: self.commit(a[0], {}) and whole(self, *a))
    with refuses(RemoteError, NAME):
        push("fit.safetensors", NAME, overwrite=True)


def test_a_hub_that_claims_terabytes(hub: Hub, folder: Path) -> None:
    push("fit.safetensors", NAME)
    hub.claimed_size = MOST_BYTES + 1
    asked = len(hub.requests)
    with refuses(FormatError, NAME, MOST_BYTES):
        pull(NAME, "a.safetensors")
    assert len(hub.requests) == asked + 1


def test_what_is_damaged_on_the_hub_is_not_kept(hub: Hub, folder: Path) -> None:
    push("fit.safetensors", NAME)
    hub.commit("somebody/line-1.0", {"forecaster.safetensors": b"\x08" + bytes(100)})
    before = {p.name for p in folder.iterdir()}
    with refuses(FormatError, "forecaster.safetensors"):
        pull(NAME, "a.safetensors")
    assert {p.name for p in folder.iterdir()} == before


def test_without_huggingface_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: push("fit.safetensors", NAME), lambda: pull(NAME, "a.safetensors")):
        with refuses(MissingExtraError, "weightcast[hub]"):
            call()
    push("fit.safetensors", "shared")
    assert isinstance(load("shared/forecaster.safetensors"), LinearFit)
