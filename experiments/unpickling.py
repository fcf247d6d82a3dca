"""Batches of CIFAR's Python version: pickles, read without pickle.

Python's own reader trusts what it reads. Keys that are tuples in tuples overrun its stack when they
are hashed, or take for ever, as long numbers do; and the number of an object is room for as many.
Here objects of a few kinds are put together, and keys are short texts.
"""

from __future__ import annotations

import pickletools
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST = 1 << 20  # operations; CIFAR-100's 50,000 images need some 200,000
_KEY = 100  # characters of a key
_STRINGS = {"BINSTRING", "SHORT_BINSTRING"}  # of Python 2, where they are bytes
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_batch(data: bytes, pixels: int, labels: bytes) -> tuple[npt.NDArray[np.uint8], list[Any]]:
    """Images and labels of a batch.

    Parameters
    ----------
    data : bytes
        Of the file.
    pixels : int
        Bytes of an image.
    labels : bytes
        The key that the labels stand at; the images stand at ``b"data"``.

    Returns
    -------
    uint8 array, shape (n, pixels)
    list of length n
        As the file has it.

    Raises
    ------
    UnpicklingError
        If the pickle has what a batch has no need of, or lacks what it needs. What else is wrong
        raises other exceptions of many kinds; nothing that the pickle asks for is ever called.
    """
    found = _Reader().read(data)
    if type(found) is not dict:
        raise UnpicklingError("it must be a dict")
    x, y = found[b"data"], found[labels]
    if type(y) is not list:
        raise UnpicklingError("its labels must be a list")
    if type(x) is not _Array or x.shape != (len(y), pixels):
        raise UnpicklingError(f"its data must be [{len(y)}, {pixels}] bytes")
    return np.frombuffer(x.numbers, np.uint8).reshape(len(y), pixels), y


class _Dtype:
    """Stands for `numpy.dtype`; bytes only."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in (b"u1", "u1"):
            raise UnpicklingError("it has an array of other numbers than bytes")

    def fill(self, state: object) -> None:
        """Byte order and alignment, of which bytes have none."""


class _Array:
    """Stands for `numpy.ndarray`, and for the function that makes an empty one to be filled."""

    shape: object = None
    numbers = b""

    def __init__(self, *_: object) -> None:
        pass

    def fill(self, state: tuple[object, object, object, object, bytes]) -> None:
        _, self.shape, _, columns_first, self.numbers = state
        if columns_first or type(self.numbers) is not bytes:
            raise UnpicklingError("it has an array that is not rows of bytes")


_NAMES: dict[str, type[_Array | _Dtype]] = {
    "numpy.core.multiarray _reconstruct": _Array,
    "numpy._core.multiarray _reconstruct": _Array,  # pickled again with NumPy 2
    "numpy ndarray": _Array,
    "numpy dtype": _Dtype,
}


class _Reader:
    """A machine with a stack, as pickles are programs of: the operations that batches use."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        """What the pickle holds."""
        for count, (code, value, _) in enumerate(pickletools.genops(data)):
            if count == _MOST:
                raise UnpicklingError(f"it has more than {_MOST} operations")
            if code.name in _STRINGS:
                self.stack.append(str(value).encode("latin-1"))
            elif code.name in _VALUES:
                self.stack.append(value)
            elif code.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[code.name])
            elif not (self._built(code.name) or self._remembered(code.name, value)):
                self._array(code.name, value)
        (whole,) = self.stack
        return whole

    def _built(self, name: str) -> bool:
        """Dicts, lists and tuples."""
        if name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name == "TUPLE" or name in _TUPLES:
            self.stack.append(tuple(self._taken(_TUPLES.get(name))))
        elif name in ("APPEND", "APPENDS"):
            more = self._taken(1 if name == "APPEND" else None)
            self._last(list).extend(more)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._taken(2 if name == "SETITEM" else None)
            if not all(type(key) in (str, bytes) and len(key) <= _KEY for key in items[::2]):
                raise UnpicklingError(f"keys must be texts of up to {_KEY} characters")
            self._last(dict).update(zip(items[::2], items[1::2], strict=True))
        else:
            return False
        return True

    def _remembered(self, name: str, number: Any) -> bool:
        """What is referred to again."""
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else number] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[number])
        else:
            return False
        return True

    def _array(self, name: str, value: Any) -> None:
        """Arrays; anything else is refused."""
        if name in ("GLOBAL", "STACK_GLOBAL"):
            asked = value if name == "GLOBAL" else " ".join(self._taken(2))
            if asked not in _NAMES:
                asked = asked[:80].replace(" ", ".")
                raise UnpicklingError(f"it asks for {asked!r}, which is not allowed")
            self.stack.append(_NAMES[asked])
        elif name == "REDUCE":
            call, arguments = self._taken(2)
            if call not in (_Array, _Dtype) or type(arguments) is not tuple:
                raise UnpicklingError("it calls what is not allowed")
            self.stack.append(call(*arguments))
        elif name == "BUILD":
            (state,) = self._taken(1)
            self._last(_Array, _Dtype).fill(state)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise UnpicklingError(f"it has the operation {name}, which no batch needs")

    def _taken(self, count: int | None) -> list[Any]:
        """So many objects off the stack; without a number, those above the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < 0:
            raise UnpicklingError("it takes more than there is")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _last(self, *kinds: type) -> Any:
        if type(self.stack[-1]) not in kinds:
            raise UnpicklingError("it fills what is not to be filled")
        return self.stack[-1]
