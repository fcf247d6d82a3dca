"""A forecasting dataset, memory-mapped: inputs, targets and where each sample came from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.context import Context
from weightcast.store.dataset_format import DATASET_VERSION, chunk_file, columns, read_header
from weightcast.store.errors import FormatError, UsageError
from weightcast.store.history import History
from weightcast.store.layout import ATTRIBUTE
from weightcast.store.reading import open_group
from weightcast.store.recipe import Recipe
from weightcast.store.remote import Place, printed
from weightcast.store.split import held_out_weights
from weightcast.store.tensors import kinds_of

_SPLIT_BLOCK = 1 << 20  # weights whose keys are drawn at once: 32 MB


class Dataset:
    """A forecasting dataset, memory-mapped read-only.

    It is a map-style dataset for torch's loaders, in any order and number of workers: only what a
    batch needs is read. `dataset[rows]` gives copies, which may be written to.

    Parameters
    ----------
    path : str or Path
        Folder that `build_dataset` wrote.

    Attributes
    ----------
    X : float array, shape (N, F)
        What is seen of one weight each: column f is entry f of ``recipe.context``.
    y : float array, shape (N,)
        Its value at the target.
    parameter, step : int64 arrays, shape (N,)
        Which weight of the history, and t.
    target : int64 array, shape (N,)
        The step of y; of datasets before format 3, that of the recipe's horizon.
    horizon : int8 array, shape (N,)
        Index into ``recipe.horizons``.
    stratum : int8 array, shape (N,)
        0 for the weights that changed most.
    variation : float array, shape (N,)
        |w(t) - w(0)|.
    run : int32 array, shape (N,)
        Which history of `origins`. Rows are ordered by run, then by weight.
    validation : bool array, shape (N,)
        Whether it is held out; `training_rows` and `validation_rows` are the rows of both sides.
    recipe : Recipe
        How it was drawn.
    origins : tuple of Origin
        The histories it was drawn from.
    tables : tuple of ParameterTable, or None
        Of what each of the origins recorded; None before format 3.

    Raises
    ------
    InputNotFoundError, FormatError
        If it is not there, not a dataset, damaged, or of a newer format.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable, build_dataset
    >>> folder = Path(tempfile.mkdtemp())
    >>> table = ParameterTable.of([("w", (100,), "float32", "weight")])
    >>> with HistoryWriter.create(folder / "run.zarr", table) as writer:
    ...     walk = np.float32(np.arange(41)[:, None] * np.arange(100))
    ...     writer.append(range(41), range(41), walk)
    >>> dataset = build_dataset(folder / "run.zarr", folder / "data.zarr", 200, validation=0.2)

    A shuffled epoch in torch; each batch is one gather (with `batch_size=50, shuffle=True` in
    place of the sampler, the same batches come sample by sample, more slowly):

    >>> from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler
    >>> shuffled = SubsetRandomSampler(dataset.training_rows)
    >>> loader = DataLoader(dataset, sampler=BatchSampler(shuffled, 50, True), batch_size=None)
    >>> x, y = next(iter(loader))
    >>> x.shape, y.dtype
    (torch.Size([50, 4]), torch.float32)

    In scikit-learn, with no weight on both sides of a split:

    >>> from sklearn.model_selection import GroupKFold
    >>> folds = GroupKFold(5).split(dataset.X, dataset.y, groups=dataset.parameter)
    >>> train, test = next(folds)
    >>> set(dataset.parameter[train].tolist()) & set(dataset.parameter[test].tolist())
    set()
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        group = open_group(self.path)
        document = dict(group.attrs).get(ATTRIBUTE)
        if not isinstance(document, dict) or "recipe" not in document:
            raise FormatError(f"{path} is not a weightcast dataset: build one with 'dataset build'")
        self.version: Any = document.get("dataset_format")
        if type(self.version) is not int or not 1 <= self.version <= DATASET_VERSION:
            raise FormatError(
                f"{path} has dataset format {self.version!r}, this weightcast reads up to "
                f"{DATASET_VERSION}: upgrade weightcast or build the dataset again"
            )
        self.recipe = Recipe.from_json(document["recipe"], self.path)
        header = read_header(document, self.recipe, self.path)
        self._samples, self.origins, self.tables = header
        self._dtype = str(document.get("dtype", "float32"))
        if self._dtype not in ("float32", "float64"):
            raise FormatError(f"{path} is damaged: dtype {self._dtype!r}")
        arrays = dict(self._map())
        self.X: npt.NDArray[Any] = arrays["X"]
        self.y: npt.NDArray[Any] = arrays["y"]
        self.parameter: npt.NDArray[np.int64] = arrays["parameter"]
        self.step: npt.NDArray[np.int64] = arrays["step"]
        self.stratum: npt.NDArray[np.int8] = arrays["stratum"]
        self.variation: npt.NDArray[Any] = arrays["variation"]
        none = np.zeros(1, np.int32), np.zeros(1, bool), np.zeros(1, np.int8)
        absent = [np.broadcast_to(zero, len(self)) for zero in none]  # formats 1 and 2
        self.run: npt.NDArray[np.int32] = arrays.get("run", absent[0])
        self.validation: npt.NDArray[np.bool_] = arrays.get("validation", absent[1])
        self.horizon: npt.NDArray[np.int8] = arrays.get("horizon", absent[2])
        if "target" in arrays:
            self.target = arrays["target"]

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process, such as a loader's worker, needs to map it again."""
        return Dataset, (self.path,)

    def __len__(self) -> int:
        """Samples, N."""
        return self._samples

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}: {len(self)} samples of {len(self.recipe.context)} + 1)"

    def __getitem__(self, index: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Inputs and targets of some rows, copied.

        Parameters
        ----------
        index : int, slice, or array of int or bool
            Rows; n of them unless it is an int.

        Returns
        -------
        x : float array, shape (F,) or (n, F)
        y : float scalar, or array, shape (n,)
        """
        return np.array(self.X[index]), np.array(self.y[index])[()]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Any, Any]]:
        """Pairs of input and target, by one gather: what a loader of torch collates to a batch."""
        return list(zip(*self[np.asarray(rows, dtype=np.int64)], strict=True))

    def split(self, held_out: float, seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Split by weight, so that no weight is on both sides.

        Parameters
        ----------
        held_out : float
            Share of the weights to hold out, from 0 to 1, neither included.
        seed : int

        Returns
        -------
        rest, held : int64 arrays
            Rows of the dataset.

        Raises
        ------
        UsageError
            If the share is not between 0 and 1.
        FormatError
            If a parameter is negative.
        """
        if not 0 < held_out < 1:
            raise UsageError(f"the share to hold out must be between 0 and 1: got {held_out}")
        if self.parameter.min() < 0:
            raise FormatError(
                f"{self.path} is damaged: parameter {self.parameter.min()} is below 0"
            )
        held = np.empty(len(self), dtype=bool)
        blocks = self.parameter // _SPLIT_BLOCK
        order = np.argsort(blocks, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
            weights = self.parameter[rows]
            low = int(weights.min())
            keys = held_out_weights(seed, held_out, low, int(weights.max()) + 1)
            held[rows] = keys[weights - low]
        return np.flatnonzero(~held), np.flatnonzero(held)

    @cached_property
    def target(self) -> npt.NDArray[np.int64]:
        """The step of y, int64, shape (N,); here, where it was not stored."""
        return np.asarray(self.recipe.horizons[0].target(self.step))

    def inputs(self, context: object) -> npt.NDArray[Any]:
        """Columns of X that are the entries of a context.

        Parameters
        ----------
        context : Context, or what `Context.of` reads

        Returns
        -------
        float array, shape (N, F)
            X itself, or part of it, memory-mapped, if they stand side by side there; or a copy.

        Raises
        ------
        UsageError
            If the dataset was built without one of them.
        """
        places = self.recipe.sees.places(Context.of(context).entries)
        first, last = places[0], places[-1]
        if places == list(range(first, last + 1)):
            whole = len(places) == self.X.shape[1]
            return self.X if whole else self.X[:, first : last + 1]
        return self.X[:, places]

    def kinds(self) -> npt.NDArray[np.str_] | None:
        """What each sample's tensor is for, such as ``"weight"``, shape (N,); or None, as `tables`.

        Raises
        ------
        FormatError
            If a sample is of a weight that its table does not have.
        """
        if self.tables is None:
            return None
        found = []
        ends = np.searchsorted(self.run, np.arange(len(self.tables) + 1))
        if ends[0] != 0 or ends[-1] != len(self):
            raise FormatError(f"{self.path} is damaged: runs must be from 0 to {len(self.tables)}")
        for table, low, high in zip(self.tables, ends[:-1], ends[1:], strict=True):
            weights = self.parameter[low:high]
            if len(weights) and not 0 <= weights.min() <= weights.max() < table.size:
                raise FormatError(
                    f"{self.path} is damaged: parameters must be from 0 to {table.size - 1}"
                )
            found.append(kinds_of(table, weights))
        return np.concatenate(found)

    @property
    def source(self) -> str:
        """Paths of the histories."""
        return ", ".join(origin.path for origin in self.origins)

    @property
    def training_rows(self) -> npt.NDArray[np.int64]:
        """Rows that are not held out."""
        return np.flatnonzero(~self.validation)

    @property
    def validation_rows(self) -> npt.NDArray[np.int64]:
        """Rows that are held out; none unless the recipe asks for it."""
        return np.flatnonzero(self.validation)

    def _map(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for column in columns(self._dtype, len(self.recipe.context), self.version):
            file, shape = chunk_file(self.path, column), column.shape(self._samples)
            needed = math.prod(shape) * np.dtype(column.dtype).itemsize
            if not file.is_file() or file.stat().st_size != needed:
                raise FormatError(
                    f"{self.path} is damaged: array {column.name!r} is not {needed} bytes"
                )
            yield column.name, np.memmap(file, dtype=column.dtype, mode="r", shape=shape)


def open_stored(path: Place) -> History | Dataset:
    """Open whichever of the two stands at a path, or the history at a URL, by what its header says.

    Raises
    ------
    InputNotFoundError, FormatError
        If it is neither.
    UsageError
        If it is a dataset that is not in a local folder.
    """
    document = dict(open_group(path).attrs).get(ATTRIBUTE)
    if not isinstance(document, dict) or "recipe" not in document:
        return History(path)
    local = printed(path)
    if not isinstance(local, Path):
        raise UsageError(f"a dataset is memory-mapped: copy it to a local folder first; got {path}")
    return Dataset(local)
