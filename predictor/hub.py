"""The Hugging Face Hub: a few files to and from a model repository, and errors in one line."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weightcast.predictor.files import MOST_BYTES
from weightcast.store import (
    FormatError,
    InputNotFoundError,
    OutputExistsError,
    RemoteError,
    UsageError,
    WeightcastError,
)
from weightcast.store.extras import require_hub
from weightcast.store.reading import one_line

_LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"


def push(
    name: str,
    revision: str | None,
    content: Mapping[str, bytes],
    *,
    replaced: Collection[str],
    overwrite: bool,
    private: bool,
    endpoint: str | None = None,
) -> str:
    """Commit files to a repository, which is made if it is not there.

    Parameters
    ----------
    name : str
        ``owner/name``.
    revision : str or None
        Branch.
    content : mapping of str to bytes
        The files.
    replaced : collection of str
        Files that make way for these: they are replaced or deleted.
    overwrite : bool
        Allow that any is.
    private : bool
        Make the repository private.
    endpoint : str, optional
        See `weightcast.predictor.push`.

    Returns
    -------
    str
        The commit's address.
    """
    hub, api = _open(endpoint)
    with _answers(hub, name):
        if hub.get_token() is None:
            raise RemoteError(f"pushing to hf://{name} needs a token: {_LOG_IN}")
        try:
            info = api.model_info(name, revision=revision)
        except hub.errors.RepositoryNotFoundError:
            info = None
        there = {s.rfilename for s in info.siblings or ()} & {*replaced} if info else set()
        if there and not overwrite:
            raise OutputExistsError(
                f"hf://{name} has {', '.join(sorted(there))} already: choose another name or pass "
                "--overwrite"
            )
        if info is None:
            api.create_repo(name, private=private, exist_ok=True)
        elif private and not info.private:
            raise UsageError(f"hf://{name} is there, and public: choose another name")
        changes = [hub.CommitOperationDelete(path) for path in sorted(there - content.keys())]
        changes += [hub.CommitOperationAdd(path, data) for path, data in content.items()]
        done = api.create_commit(
            name,
            changes,
            commit_message="Push a forecaster with weightcast",
            revision=revision,
            parent_commit=info.sha if info else None,  # nobody else's push meanwhile is lost
        )
        return str(done.commit_url)


def pull(
    name: str,
    revision: str | None,
    wanted: Collection[str],
    folder: Path,
    *,
    endpoint: str | None = None,
) -> None:
    """Download those of the wanted files that a repository has, of one commit."""
    hub, api = _open(endpoint)
    with _answers(hub, name):
        info = api.model_info(name, revision=revision, files_metadata=True)
        found = [s for s in info.siblings or () if s.rfilename in wanted]
        if not found:
            raise InputNotFoundError(f"hf://{name} has no {' or '.join(wanted)}: nothing to pull")
        if any((s.size or 0) > MOST_BYTES for s in found):
            raise FormatError(f"hf://{name} is no forecaster: it has more than {MOST_BYTES} bytes")
        for file in found:
            api.hf_hub_download(name, file.rfilename, revision=info.sha, local_dir=folder)


def _open(endpoint: str | None) -> tuple[Any, Any]:
    hub = require_hub()
    return hub, hub.HfApi(endpoint=endpoint or os.environ.get("HF_ENDPOINT"))


@contextmanager
def _answers(hub: Any, name: str) -> Iterator[None]:
    """Give what the Hub and its library raise as `RemoteError`."""
    try:
        yield
    except WeightcastError:
        raise
    except hub.errors.RevisionNotFoundError as error:
        raise RemoteError(f"hf://{name} has no such revision: {_line(error)}") from error
    except hub.errors.RepositoryNotFoundError as error:
        raise RemoteError(
            f"hf://{name} is not there, or not for you: check the name, or {_LOG_IN}"
        ) from error
    except Exception as error:  # its HTTP library's, and those of what it was sent
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = f"; {_LOG_IN}" if status in (401, 403) else ""
        raise RemoteError(f"the Hub fails for hf://{name}: {_line(error)}{hint}") from error


def _line(error: BaseException) -> str:
    return f"{one_line(error):.300}"
