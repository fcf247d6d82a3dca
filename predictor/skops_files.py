"""A scikit-learn regressor in a .skops file, and how one from anybody is read.

::

    f.skops = a zip, nothing compressed, nothing by path:
        schema.json   a tree of nodes, each of a named type; in it our header, as text
        0.npy ...     arrays of numbers

Before skops sees a file, it is taken apart and written anew: `vetted`. What skops then makes of it
is of types that it trusts, or of those that the user names; no code comes with it. That is as safe
as those types are: scikit-learn does not check a fitted regressor's own numbers.
"""

from __future__ import annotations

import io
import json
import math
import re
import shlex
import warnings
from collections.abc import Collection, Mapping
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from numpy.lib import format as npy

from weightcast.store import FormatError, UsageError, WeightcastWarning
from weightcast.store.extras import require_skops
from weightcast.store.reading import one_line

_SCHEMA = "schema.json"
_MOST_SCHEMA = 1 << 26  # as Python objects, up to 30 times as large
_MOST_REPEATS = 16  # an array that several nodes name is read once for each
_NAMED = 5


class UntrustedError(FormatError):
    """A file holds types that are not trusted."""


def dumped(text: str, fitted: Any) -> bytes:
    """A .skops file: a header's text, and a fitted regressor.

    Raises
    ------
    UsageError
        If the regressor holds what skops cannot keep.
    MissingExtraError
        If skops is not installed.
    """
    skops = require_skops()
    try:
        _, data = vetted(skops.dumps({"weightcast": text, "fitted": fitted}))
        restored(data, skops.get_untrusted_types(data=data))  # it must come back: a lambda does not
    except Exception as error:  # of any type: skops asks the regressor's own methods
        raise UsageError(
            f"this {type(fitted).__name__} cannot be kept in a .skops file: {one_line(error)}"
        ) from error
    return data


def vetted(data: bytes) -> tuple[str, bytes]:
    """Check a .skops file, without skops, and write it anew without what makes one dangerous.

    Ids of objects are left out: skops would read an object again wherever its id stands, in time
    that may grow as 2 to the file's length. Two places that share an array get one each.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    text : str
        The header.
    clean : bytes
        The file, the same whenever it holds the same.

    Raises
    ------
    FormatError, or one of `DAMAGE`
        If it is not such a file.
    """
    members = _members(data)
    schema = json.loads(members.pop(_SCHEMA))
    for name, content in members.items():
        _check_array(name, content)
    text = json.loads(schema["content"]["weightcast"]["content"])
    if not isinstance(text, str):
        raise FormatError("its header is not text")
    names = _rename(schema, members)
    clean = io.BytesIO()
    with ZipFile(clean, "w", ZIP_STORED) as file:
        file.writestr(ZipInfo(_SCHEMA), json.dumps(schema))
        for content, name in names.items():
            file.writestr(ZipInfo(name), content)
    return text, clean.getvalue()


def restored(clean: bytes, trusted: Collection[str]) -> Any:
    """The regressor in a file that `vetted` gave.

    Raises
    ------
    UntrustedError
        If it holds types that neither skops nor the user trusts.
    FormatError
        If it cannot be made.
    MissingExtraError
        If skops is not installed.
    """
    skops = require_skops()
    if strange := [name for name in strangers(clean) if name not in trusted]:
        more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
        shown = [f"{name:.100}" for name in strange[:_NAMED]]
        raise UntrustedError(
            f"holds types that are not trusted, {', '.join(shown)}{more}: if you trust who made "
            f"it, pass {' '.join(f'--trust {shlex.quote(name)}' for name in shown)} (trusted=[...])"
        )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fitted = skops.loads(clean, trusted=list(trusted))["fitted"]
    except Exception as error:  # whatever the constructors of the named types raise
        raise FormatError(f"its regressor cannot be made: {one_line(error):.500}") from error
    if other := [w for w in caught if type(w.message).__name__ == "InconsistentVersionWarning"]:
        warnings.warn(WeightcastWarning(one_line(other[0].message)), stacklevel=2)  # type: ignore[arg-type]
    return fitted


def strangers(clean: bytes) -> list[str]:
    """Types that skops does not trust itself, in a file that `vetted` gave; as for `restored`."""
    skops = require_skops()
    try:
        return sorted(set(skops.get_untrusted_types(data=clean)))
    except Exception as error:  # of any type: the file is anybody's
        raise FormatError(f"its regressor cannot be made: {one_line(error):.500}") from error


def _members(data: bytes) -> dict[str, bytes]:
    """What is in a zip, if it claims no more than its own size."""
    with ZipFile(io.BytesIO(data)) as file:
        entries = file.infolist()
        stored = all(e.compress_type == ZIP_STORED and not e.flag_bits & 1 for e in entries)
        if not stored or sum(max(e.file_size, e.compress_size) for e in entries) > len(data):
            raise FormatError("its members are compressed, or claim more bytes than it has")
        names = [e.filename for e in entries]
        allowed = all(n == _SCHEMA or re.fullmatch(r"[\w-]{1,100}\.npy", n) for n in names)
        if not allowed or len(set(names)) < len(names):
            raise FormatError(f"it holds other members than {_SCHEMA} and arrays, or one twice")
        if file.getinfo(_SCHEMA).file_size > _MOST_SCHEMA:
            raise FormatError(f"its {_SCHEMA} is larger than {_MOST_SCHEMA} bytes")
        return {name: file.read(name) for name in names}


def _check_array(name: str, content: bytes) -> None:
    """Check that an array is of numbers, and has the bytes that it claims."""
    stream = io.BytesIO(content)
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shape, _, dtype = header[npy.read_magic(stream)](stream)
    except Exception as error:  # NumPy gives such a header to Python's own parsers
        raise FormatError(f"its array {name} has no header that NumPy reads") from error
    size, left = math.prod(shape), len(content) - stream.tell()
    if dtype.hasobject or (size and not dtype.itemsize) or size * dtype.itemsize != left:
        raise FormatError(f"its array {name} claims {shape} of {dtype}, but has {left} bytes")


def _rename(schema: Any, members: Mapping[str, bytes]) -> dict[bytes, str]:
    """Leave out ids, in place, and number the arrays; gives what they hold, and their names."""
    names: dict[bytes, str] = {}
    nodes, read = [schema], 0
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes.extend(node)
        elif isinstance(node, dict):
            if "__loader__" in node:
                node.pop("__id__", None)
                if node.get("__class__") == "void":  # numpy.void(10**9) makes so many bytes
                    raise FormatError("it holds a numpy.void")
                if "file" in node:
                    content = members[node["file"]]
                    node["file"] = names.setdefault(content, f"{len(names)}.npy")
                    read += len(content)
            nodes.extend(node.values())
    if read > _MOST_REPEATS * sum(map(len, members.values())) + (1 << 20):
        raise FormatError("it names the same arrays too often")
    return names
