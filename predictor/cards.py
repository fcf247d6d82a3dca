"""Cards: where a forecaster comes from, what it was measured to do; as data and as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from numbers import Real
from typing import Any

import numpy as np

from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.headers import Header
from weightcast.predictor.markdown import escaped, table
from weightcast.predictor.models import MODELS
from weightcast.store import Dataset
from weightcast.store.columns import printed
from weightcast.store.horizon import horizons

_MOST_ROWS, _MOST_COLUMNS, _MOST_JSON = 100, 12, 1 << 16
_TYPE = re.compile(r"[A-Za-z_][\w.]{,299}", re.ASCII).fullmatch
_FRONT = """\
---
library_name: weightcast
tags:
- weightcast
- {model}
---
"""
_USE = """\
## Use

```console
$ weightcast evaluate {file} run.zarr{trust}
$ weightcast jump --history run.zarr --step T --forecaster {file}{trust} \\
    --checkpoint in.pt -o out.pt
```
"""


def make_card(
    datasets: Iterable[Dataset] = (),
    *,
    errors: Iterable[Any] = (),
    held_out: str = "",
    seed: int | None = None,
    command: str = "",
    date: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Provenance of a forecaster, as JSON has it; its options and context its file holds anyway.

    Parameters
    ----------
    datasets : iterable of Dataset
        That it was fitted to. Their paths are kept as they are given, and those of their histories:
        a card that is published shows them.
    errors : iterable of Errors
        What it was measured to do.
    held_out : str
        On what.
    seed : int, optional
        Of the fit.
    command : str
        That made it.
    date : str, optional
        By default today.
    **more
        Whatever else is worth knowing.

    Returns
    -------
    dict

    Examples
    --------
    >>> make_card(seed=1, date="2026-11-21", note="a trial")["note"]
    'a trial'
    """
    card = {
        "date": date or datetime.now(UTC).date().isoformat(),
        "command": command,
        "seed": seed,
        "datasets": [_described(dataset) for dataset in datasets],
        "held_out": held_out,
        "errors": [dict(e) if isinstance(e, Mapping) else vars(e) for e in errors],
        **more,
    }
    plain: dict[str, Any] = json.loads(json.dumps(card, default=np.generic.item))
    return plain


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "path": str(dataset.path),
        "samples": len(dataset),
        "recipe": dataset.recipe.to_json(),
        "histories": [
            {"path": o.path, "steps": o.recorded, "digest": o.digest} for o in dataset.origins
        ],
    }


def fit_split(card: Mapping[str, Any], dataset: Dataset) -> dict[str, Any] | None:
    """How a fit to this very dataset told training from held-out samples, if its card says so.

    Parameters
    ----------
    card : mapping
        Of a file, and not trusted.
    dataset : Dataset

    Returns
    -------
    dict or None
        ``by``, "weight" or "dataset"; ``share`` and ``seed``, as `Dataset.split` takes them.
    """
    split, known = card.get("split"), card.get("datasets")
    if not isinstance(split, dict) or not isinstance(known, list):
        return None
    mine = {key: value for key, value in _described(dataset).items() if key != "path"}
    alike = (isinstance(d, dict) and {**d, "path": 0} == {**mine, "path": 0} for d in known)
    share, seed = split.get("share"), split.get("seed")
    sane = type(share) is float and 0 < share < 1 and type(seed) is int and 0 <= seed < 1 << 64
    if not sane or not any(alike) or split.get("by") not in ("weight", "dataset"):
        return None
    return {"by": split["by"], "share": share, "seed": seed}


def card_text(forecaster: Forecaster | Header, card: Mapping[str, Any] | None = None) -> str:
    """A model card in Markdown, with the front matter that the Hugging Face Hub reads.

    Text that the card holds is shown as text: nothing of it is Markdown, HTML or an escape sequence
    of a terminal.

    Parameters
    ----------
    forecaster : Forecaster or Header
        Fitted; or what `read_header` gave, with its own card.
    card : mapping, optional
        As `make_card` gives it.

    Returns
    -------
    str

    Examples
    --------
    >>> from weightcast.predictor import LinearFit
    >>> print(card_text(LinearFit().ready()).splitlines()[7])
    # linear-fit
    """
    header = forecaster if isinstance(forecaster, Header) else Header.of(forecaster, card)
    model = MODELS.get(header.model)
    file = "forecaster.safetensors" if model else "forecaster.skops"
    summary = model.summary if model else header.regressor or "a scikit-learn regressor"
    parts = [
        _FRONT.format(model=header.model),
        f"# {header.model}\n",
        f"A forecaster of neural network weights, made with weightcast: {escaped(summary)}.\n",
        table(("", ""), _facts(header)),
        *_measured(header.card),
        _USE.format(file=file, trust=_trust(header.card)),
        *_provenance(header.card),
    ]
    return "\n".join(parts)


def _facts(header: Header) -> list[tuple[str, str]]:
    """What it sees and forecasts."""
    left = {k: v for k, v in header.parameters.items() if k not in ("context", "horizon")}
    ahead = header.parameters.get("horizon")
    try:
        ahead = ", ".join(str(h) for h in horizons(ahead))
    except ValueError:
        ahead = repr(ahead)  # `load` will refuse it
    return [
        ("context", printed(header.context)),
        ("horizon", ahead),
        ("options", ", ".join(f"{name}={value}" for name, value in left.items()) or "none"),
        ("made with", ", ".join(f"{name} {value}" for name, value in header.versions.items())),
    ]


def _measured(card: Mapping[str, Any]) -> list[str]:
    """Tables of errors, wherever the card has some."""
    parts = []
    for part in _measurements(card):
        rows, held_out = _rows(part.get("errors")), part.get("held_out")
        on = f" on {escaped(held_out)}" if isinstance(held_out, str) and held_out else ""
        columns = list(dict.fromkeys(name for row in rows for name in row))[:_MOST_COLUMNS]
        cells = [[_number(row.get(name, "")) for name in columns] for row in rows[:_MOST_ROWS]]
        parts += [
            f"## Mean absolute error{on}\n",
            table([name.replace("_", " ") for name in columns], cells),
        ]
    return parts


def _measurements(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Parts of a card that have errors to show; today's cards, and those of before."""
    parts = (card, card.get("held_out"), card.get("other_run"))
    return [part for part in parts if isinstance(part, Mapping) and _rows(part.get("errors"))]


def _trust(card: Mapping[str, Any]) -> str:
    """Options that name the types which the file needs; none if the card has other things."""
    types = card.get("trust")
    if not isinstance(types, list) or not all(isinstance(t, str) and _TYPE(t) for t in types):
        return ""
    return "".join(f" --trust {t}" for t in types[:_MOST_ROWS])


def _rows(value: object) -> list[dict[str, Any]]:
    """What is a table's rows, or nothing."""
    return value if isinstance(value, list) and all(isinstance(v, dict) for v in value) else []


def _number(value: object) -> str:
    real = isinstance(value, Real) and not isinstance(value, bool)
    return f"{value:.5g}" if real and not isinstance(value, int) else str(value)


def _provenance(card: Mapping[str, Any]) -> list[str]:
    """The rest of the card, as JSON: ASCII, in which control characters are escaped."""
    shown = _measurements(card)
    left = {
        key: {k: v for k, v in value.items() if k != "errors"} if value in shown else value
        for key, value in card.items()
        if not (key == "errors" and card in shown)
    }
    if not left:
        return []
    text = json.dumps(left, indent=1)
    cut = text[:_MOST_JSON] + ("\n..." if len(text) > _MOST_JSON else "")
    return ["## Where it comes from\n", f"```json\n{cut}\n```\n"]
