"""Zarr stores behind URLs: fsspec's, as Zarr itself opens them, or else obstore's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from zarr.abc.store import Store
from zarr.storage import FsspecStore, ObjectStore

from weightcast.store.errors import MissingExtraError, UsageError
from weightcast.store.guard import unanswered

Place = str | Path | Store
# What obstore reads where fsspec's own driver (s3fs, gcsfs, adlfs) is not installed.
_OBSTORE_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "http", "https")


def is_remote(place: Place) -> bool:
    """Whether this is a URL or a Zarr store, and not a local path.

    Examples
    --------
    >>> is_remote("s3://bucket/run.zarr"), is_remote("runs/run.zarr")
    (True, False)
    """
    return isinstance(place, Store) or (isinstance(place, str) and "://" in place)


def printed(place: Place) -> Path | str:
    """A local path, or what messages call a remote place.

    Examples
    --------
    >>> printed("s3://bucket/run.zarr"), printed("run.zarr").name
    ('s3://bucket/run.zarr', 'run.zarr')
    """
    return str(place) if is_remote(place) else Path(cast("str | Path", place))


def require_local(place: Place) -> None:
    """Check that an output is to be a local file or folder.

    Raises
    ------
    UsageError
    """
    if is_remote(place):
        raise UsageError(
            f"recording and writing are local: give a local path, and copy it to {place} afterwards"
        )


def open_url(url: str, options: Mapping[str, Any] | None = None) -> Store:
    """Open a store by its URL, read-only; nothing is asked of it yet.

    Parameters
    ----------
    url : str
        Whatever fsspec opens: ``s3://bucket/run.zarr``, ``https://...``, ``memory://...``.
    options : mapping, optional
        For the library that opens it, which is fsspec if it has a driver for the scheme: s3fs takes
        ``endpoint_url``, ``key``, ``secret``. obstore otherwise: ``endpoint``, ``access_key_id``,
        ``secret_access_key``. Without options both read the environment: AWS_ENDPOINT_URL,
        AWS_ACCESS_KEY_ID and so on.

    Raises
    ------
    MissingExtraError
        If no library that is installed opens such a URL.
    UsageError
        If the scheme or an option is unknown.
    """
    try:
        return FsspecStore.from_url(url, storage_options=dict(options or {}), read_only=True)
    except ImportError as error:
        return _open_with_obstore(url, options or {}, error)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{url} cannot be opened: {_line(error)}") from error
    except Exception as error:  # of the driver: no credentials, for one
        raise unanswered(url, error) from error


def _open_with_obstore(url: str, options: Mapping[str, Any], missing: ImportError) -> Store:
    scheme = url.partition("://")[0]
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        scheme = ""
    if scheme not in _OBSTORE_SCHEMES:
        raise MissingExtraError(
            f"opening {url} needs a library that is not installed: pip install "
            f"'weightcast[remote]'; {_line(missing)}"
        ) from missing
    settings: dict[str, Any] = {
        "client_options": {"allow_http": True},  # whoever gives such a URL or endpoint means it
        "retry_config": {"max_retries": 3},  # 10 by default: three minutes for a wrong endpoint
        **options,
    }
    try:
        return ObjectStore(from_url(url, **settings), read_only=True)
    except (BaseError, TypeError, ValueError) as error:
        raise UsageError(f"{url} cannot be opened: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).partition(" Debug source:")[0]
