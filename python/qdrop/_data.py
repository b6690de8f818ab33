"""Images: folders, `.npy` files and arrays."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Union

from ._errors import InputError
from ._inputs import Inputs

if TYPE_CHECKING:
    import numpy as np

    Images = Union[str, os.PathLike[str], np.ndarray[Any, Any]]
    PerChannel = Union[float, Sequence[float]]


class Data(NamedTuple):
    """Where images are, as a recipe says it."""

    folder: Optional[str]
    changes: List[str]


def change(key: str, value: object) -> str:
    """Return a change of a recipe: JSON is YAML, too."""
    try:
        return f"{key}={json.dumps(value, ensure_ascii=False, default=_plain)}"
    except TypeError as error:
        raise InputError(f"{key}: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} cannot be written in a recipe")


def find(
    images: Optional[Images],
    eval_images: Optional[Images],
    labels: Optional[Images],
    mean: Optional[PerChannel],
    std: Optional[PerChannel],
    inputs: Inputs,
    *,
    of_recipe: bool,
    known: Optional[Dict[str, Any]] = None,
) -> Data:
    """Return where images are; arrays are kept among the `inputs`.

    Parameters
    ----------
    of_recipe
        Whether a recipe knows what is in a folder.
    known
        Mean and standard deviation of pixels where none are given.
    """
    if images is None:
        for name, given in [("eval_images", eval_images), ("labels", labels), ("mean", mean), ("std", std)]:
            if given is not None:
                raise InputError(f"{name} is given, but images is not")
        return Data(None, [])
    norm = {key: value for key, value in [("mean", mean), ("std", std)] if value is not None}
    if _is_folder(images):
        return _folder(images, eval_images, labels, norm, of_recipe)
    file = _array_file("images", images, inputs)
    if known and _holds_pixels(file):
        norm = {**known, **norm}
    params = {"images": file, **norm}
    if eval_images is not None:
        params["eval_images"] = _array_file("eval_images", eval_images, inputs)
    if labels is not None:
        params["labels"] = _array_file("labels", labels, inputs)
    changes = [change("data", {"name": "numpy", "params": params})]
    return Data(None, changes + _task(labels is not None))


def _task(labelled: bool) -> List[str]:
    """Return what is measured: with labels the accuracy, and in any case how far the network is from the float one."""
    task = "classification" if labelled else "unlabelled"
    return [change("task", task), change("evaluation.against_float", True)]


def _is_path(images: Any) -> bool:
    return isinstance(images, (str, os.PathLike))


def _is_folder(images: Any) -> bool:
    if not _is_path(images):
        return False
    path = Path(images)
    if not path.is_dir() and path.suffix != ".npy":
        what = "is neither a folder nor a .npy file" if path.exists() else "does not exist"
        raise InputError(f"images: {path} {what}")
    return path.is_dir()


def _folder(images: Any, eval_images: Any, labels: Any, norm: Any, of_recipe: bool) -> Data:
    root = Path(images).absolute()
    changes = [change(f"data.params.{key}", value) for key, value in norm.items()]
    split = any((root / name).is_dir() for name in ("train", "val"))
    if eval_images is None and labels is None and (split or of_recipe):
        return Data(str(root), changes)
    for name, given in [("eval_images", eval_images), ("labels", labels)]:
        if given is not None and not _is_path(given):
            raise InputError(f"{name}: images is a folder, so this must be a path, not {_kind(given)}")
    val = root if eval_images is None else Path(eval_images).absolute()
    if not val.is_dir():
        raise InputError(f"eval_images: {val} is no folder")
    changes += [change("data.params.train", "."), change("data.params.val", "." if val == root else str(val))]
    if labels is not None:
        changes.append(change("data.params.labels", str(Path(labels).absolute())))
    labelled = labels is not None or any(entry.is_dir() for entry in val.iterdir())
    return Data(str(root), changes + _task(labelled))


def _array_file(name: str, given: Any, inputs: Inputs) -> str:
    """Return the `.npy` file of an array."""
    if _is_path(given):
        return str(Path(given).absolute())
    if not hasattr(given, "__array__"):
        raise InputError(f"{name}: an array or a path is needed, not {_kind(given)}")
    import numpy as np

    array = np.asarray(given)
    if name == "labels":
        if array.dtype.kind not in "iu":
            raise InputError(f"labels: integers are needed, not an array of {array.dtype}")
        array = array.astype("<i8")
    elif array.dtype.kind == "f":
        array = array.astype("<f4", copy=False)
    elif array.dtype != np.uint8:
        raise InputError(f"{name}: an array of uint8 or float32 is needed, not of {array.dtype}")
    file = inputs.file(f"{name}.npy")
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return str(file)


def _holds_pixels(file: str) -> bool:
    """Return whether the elements of a `.npy` file are bytes."""
    try:
        with open(file, "rb") as opened:
            return b"|u1" in opened.read(256)
    except OSError:
        # The error is that of the reader.
        return False


def _kind(value: object) -> str:
    return type(value).__name__
