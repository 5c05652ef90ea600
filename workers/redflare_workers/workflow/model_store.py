"""Models in files: one ``.npz`` each, readable by ``numpy.load``, with its structure and notes inside.

A member ``about.json`` describes the tree (which array is where, numbers that are no arrays, dtypes that numpy has
no letter for), and holds the caller's notes. Files are written under another name and renamed, so a reader finds the
old one or the new one, whole.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from redflare_broker.wire import dtypes, tensors

from redflare_workers.apis.fl_component import job_component
from redflare_workers.util.atomic_file import replacing
from redflare_workers.util.input_file import INPUT_FILE

from .model_tree import Model, at
from .model_tree import Path as TreePath

#: What a workflow may be given to begin with: a model, a function that makes one, or a file that ``save`` wrote.
InitialModel = Model | Callable[[], Model] | Annotated[str | os.PathLike[str], INPUT_FILE]

_ABOUT: Final = "about.json"
#: Values JSON has no word for: ``[member, type, dtype, shape]``, and the items of a tuple.
_ARRAY: Final = "$array"
_TUPLE: Final = "$tuple"
#: The dtypes that numpy's own format knows; arrays of others are kept as bytes.
_PLAIN: Final = frozenset(
    (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)


@job_component
class ModelStore:
    """A folder with the newest and the best model of a run, under NVFlare's names for them.

    Args:
        folder: made when something is saved.
    """

    #: The model after the newest round.
    NEWEST: Final = "FL_global_model.npz"
    #: The one with the best metric.
    BEST: Final = "best_FL_global_model.npz"
    #: What each round was like, a line of JSON for each.
    HISTORY: Final = "history.jsonl"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"ModelStore({str(self.folder)!r})"

    def save_round(self, model: Model, rounds: int, entry: Any) -> Path:
        """Save the model that so many rounds have made as the newest one, and append the last round to the history.

        Args:
            entry: of the last round, a JSON value; ``load`` returns those of all rounds as the note ``history``.
        """
        path = self.folder / self.HISTORY
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            # the line before may be torn
            file.write(b"\n" + json.dumps([rounds, entry]).encode() + b"\n")
        return self.save(model, {"rounds": rounds})

    def history(self, rounds: int) -> list[Any]:
        """Return the entries of the first rounds; one that was repeated, or begun anew, counts as it was in the end."""
        found: list[tuple[int, Any]] = []
        try:
            lines = (self.folder / self.HISTORY).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                number, entry = json.loads(line)
            except (ValueError, TypeError):
                continue
            while found and found[-1][0] >= number:
                found.pop()
            found.append((number, entry))
        return [entry for number, entry in found if number <= rounds]

    def save(self, model: Model, notes: dict[str, Any], *, best: bool = False) -> Path:
        """Save a model as the newest one, or the best; return its file. Errors as ``save_model``'s."""
        path = self.folder / (self.BEST if best else self.NEWEST)
        save_model(path, model, notes)
        return path

    def load(self, *, best: bool = False) -> tuple[Model, dict[str, Any]]:
        """Load the newest or best model with its notes, the newest with its history. Errors as ``load_model``'s."""
        model, notes = load_model(self.folder / (self.BEST if best else self.NEWEST))
        if not best and (history := self.history(notes.get("rounds", 0))):
            notes["history"] = history
        return model, notes


def save_model(path: str | os.PathLike[str], model: Model, notes: dict[str, Any] | None = None) -> None:
    """Write a model into a file, in one step as far as readers can see.

    Args:
        path: the file; its folder is made.
        model: nested dicts and lists of arrays, torch tensors and numbers.
        notes: JSON values that are kept beside it, such as the round.

    Raises:
        ValueError: the model holds something else; the text says where.
        OSError: the file cannot be written; the old one is kept.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        about = {"model": _described(model, (), archive), "notes": notes or {}}
        archive.writestr(_ABOUT, json.dumps(about))


def load_model(path: str | os.PathLike[str]) -> tuple[Model, dict[str, Any]]:
    """Load a model that ``save_model`` wrote, and its notes. No code in the file is run.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not a file of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read(_ABOUT))
            return _restored(about["model"], archive), about["notes"]
    except (zipfile.BadZipFile, KeyError, TypeError, LookupError, ValueError) as exc:
        raise ValueError(f"{os.fspath(path)} is not a model that save_model() wrote: {exc}") from exc


def initial(model: InitialModel) -> Model:
    """Return the initial model: as it is, made by the function, or read from the file.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(model, (str, os.PathLike)):
        return load_model(model)[0]
    made = model() if callable(model) else model
    if not isinstance(made, dict):
        raise TypeError(f"the initial model must be a dict of arrays, but is a {type(made).__name__}")
    return made


def _described(value: Any, path: TreePath, archive: zipfile.ZipFile) -> Any:
    """Describe a value for JSON, and write its arrays."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise ValueError(at(path, f"keys must be str, but one is {wrong[0]!r}"))
        # a user's key that begins like a mark gets one more sign, which ``_restored`` takes off
        return {"$" * key.startswith("$") + key: _described(item, (*path, key), archive) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_described(item, (*path, index), archive) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if isinstance(value, (np.ndarray, np.generic)) or tensors.is_tensor(value):
        return {_ARRAY: _written(value, path, archive)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(at(path, f"a {type(value).__name__} cannot be saved; use arrays and numbers"))


def _written(value: Any, path: TreePath, archive: zipfile.ZipFile) -> list[Any]:
    """Write one array under the name of its place; return how to read it."""
    if tensors.is_tensor(value):
        kind, name = "torch", tensors.name_of(value)
        array: dtypes.Array = np.frombuffer(tensors.to_bytes(value), np.uint8)
        if name in _PLAIN:
            array = array.view(name).reshape(value.shape)
    else:
        kind, known = ("array" if isinstance(value, np.ndarray) else "number"), dtypes.name_of(value.dtype)
        if known is None:
            raise ValueError(at(path, f"an array of dtype {value.dtype} cannot be saved"))
        name = known
        array = np.asarray(value, order="C")
        if array.dtype.type.__module__ == "ml_dtypes":
            array = np.frombuffer(dtypes.flat(array), np.uint8)
    member = _free_name("/".join(map(str, path)) + ".npy", archive)
    with archive.open(member, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
    return [member, kind, name, list(value.shape)]


def _restored(described: Any, archive: zipfile.ZipFile) -> Any:
    if isinstance(described, list):
        return [_restored(item, archive) for item in described]
    if not isinstance(described, dict):
        return described
    if _ARRAY in described:
        return _read(archive, *described[_ARRAY])
    if _TUPLE in described:
        return tuple(_restored(item, archive) for item in described[_TUPLE])
    return {key.removeprefix("$"): _restored(item, archive) for key, item in described.items()}


def _read(archive: zipfile.ZipFile, member: str, kind: str, name: str, shape: list[int]) -> Any:
    with archive.open(member) as file:
        array: dtypes.Array = np.lib.format.read_array(file, allow_pickle=False)
    if kind == "torch":
        value, memory = tensors.allocate(name, shape)
        memory[:] = dtypes.flat(array)
        return value
    dtype = dtypes.by_name(name)
    if array.dtype != dtype:
        array = array.view(dtype).reshape(shape)
    return array if kind == "array" else array[()]


def _free_name(wanted: str, archive: zipfile.ZipFile) -> str:
    name, number = wanted, 1
    while name in archive.NameToInfo or name == _ABOUT:
        number += 1
        name = f"{number}~{wanted}"
    return name
