"""Quantization."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Union

from . import _data, _native
from ._data import change
from ._errors import InputError
from ._progress import Progress
from ._result import Quantized, Temporary

if TYPE_CHECKING:
    from ._data import Images, PerChannel


class Request(NamedTuple):
    """The recipe that runs."""

    name: str
    changes: List[str]
    iters: Optional[int]
    weights: Optional[str]
    data: Optional[str]


def quantize(
    model: Union[str, os.PathLike[str]],
    images: Optional[Images] = None,
    bits: Optional[str] = None,
    preset: Optional[str] = None,
    progress: bool = True,
    *,
    labels: Optional[Images] = None,
    eval_images: Optional[Images] = None,
    mean: Optional[PerChannel] = None,
    std: Optional[PerChannel] = None,
    weights: Union[str, os.PathLike[str], None] = None,
    iters: Optional[int] = None,
    seed: Optional[int] = None,
    set: Optional[Dict[str, Any]] = None,
    out: Union[str, os.PathLike[str], None] = None,
    device: str = "cpu",
) -> Quantized:
    """Quantize a network."""
    name, of_recipe = _recipe(model, bits, preset)
    temporary = Temporary()
    data = _data.find(images, eval_images, labels, mean, std, temporary.path, of_recipe=of_recipe)
    changes = list(data.changes)
    if seed is not None:
        changes.append(change("seed", seed))
    changes += [change(key, value) for key, value in (set or {}).items()]
    folder = temporary.path / "result" if out is None else Path(out).absolute()
    path = None if weights is None else os.fspath(weights)
    listener = Progress(progress)
    try:
        _native.quantize(Request(name, changes, iters, path, data.folder), device, str(folder), listener)
    finally:
        listener.finished()
    return Quantized(folder, temporary)


def _recipe(model: Any, bits: Optional[str], preset: Optional[str]) -> tuple[str, bool]:
    if not isinstance(model, (str, os.PathLike)):
        raise InputError(f"model: a path or a name is needed, not {type(model).__name__}")
    name = os.fspath(model)
    known = f"best/{name}_{bits or 'w4a4'}"
    if known in _native.recipes():
        return known, False
    return name, True
