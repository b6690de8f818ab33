"""Quantized networks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Union

from . import _data, _native
from ._errors import InputError
from ._inputs import Inputs
from ._progress import Progress

if TYPE_CHECKING:
    from ._data import Images, PerChannel


class Report:
    """What a run measured.

    Attributes
    ----------
    text : str
        The table: the float network, the recipe's variants, and the quantized network. It is also ``str(report)``.
    summary : dict
        The measurements (``float`` and ``quantized``) and the conditions of the run.
    """

    def __init__(self, text: str, summary: Dict[str, Any]) -> None:
        self.text = text
        self.summary = summary

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


class Quantized:
    """A quantized network, which `quantize` returns or `load` opens.

    Attributes
    ----------
    path : pathlib.Path
        The folder with the result, or the packed file. Without ``out=`` it is a temporary one, which goes with this object.
    """

    def __init__(self, path: Path, inputs: Optional[Inputs] = None) -> None:
        # Damage is noticed here.
        self._report = Report(*_read_report(path))
        self.path = path
        # What is temporary goes with this object.
        self._inputs = inputs

    def report(self) -> Report:
        """Return what the run measured.

        Returns
        -------
        Report
            The table as text, and the summary as a dictionary.
        """
        return self._report

    def evaluate(
        self,
        images: Optional[Images] = None,
        labels: Optional[Images] = None,
        *,
        mean: Optional[PerChannel] = None,
        std: Optional[PerChannel] = None,
        device: str = "cpu",
        progress: bool = True,
    ) -> Dict[str, float]:
        """Measure the network.

        Parameters
        ----------
        images
            Images as of `quantize`: an array, a ``.npy`` file or a folder. By default, the evaluation images of the run.
        labels
            Their classes: an array or a ``.npy`` file of integers; for a folder without class folders a file of labels.
            Without labels the network is compared with the float network alone.
        mean, std
            As of `quantize`, but by default those of the run.
        device
            ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        progress
            Whether progress is shown.

        Returns
        -------
        dict
            The values of all metrics with their standard errors, such as ``top1`` in percent, and the number of ``images``.

        Raises
        ------
        Error
            The images cannot be read or do not fit the network.
        """
        inputs, listener = Inputs(None), Progress(progress)
        try:
            params = json.loads(_native.dataset(str(self.path))).get("params") or {}
            known = {key: params[key] for key in ("mean", "std") if params.get(key) is not None}
            data = _data.find(images, None, labels, mean, std, inputs, of_recipe=False, known=known)
            return dict(json.loads(_native.evaluate(str(self.path), data.folder, data.changes, device, listener)))
        finally:
            listener.finished()
            inputs.remove()

    def export(
        self, file: Union[str, os.PathLike[str]], format: str = "onnx", exact: bool = False
    ) -> Path:
        """Write the network for another program, such as ONNX Runtime.

        Parameters
        ----------
        file
            The file to write, such as ``"x.onnx"``. Another file is not replaced.
        format
            ``"onnx"``, the quantized network in the integers that runtimes are fast with; ``"onnx-float"``, the float network;
            ``"packed"``, a file that `load` opens; or that of a plugin (the program lists them with ``qdrop list exporters``).
        exact
            Whether ``"onnx"`` computes what qdrop computes, in floating point, instead of being fast.

        Returns
        -------
        pathlib.Path
            The file, with which further ones of the same name may lie.

        Raises
        ------
        InputError
            The format is unknown, it cannot express the network, or the file exists.

        Warns
        -----
        UserWarning
            A layer could not be written in the usual way.
        """
        changes = ["exact=true"] if exact else []
        return _native.export(str(self.path), format, changes, os.fspath(file), Progress(False))[0]

    def __repr__(self) -> str:
        summary = self._report.summary
        measured = summary["quantized"]
        values = [f"{key}={value:.4g}" for key, value in measured.items() if _is_shown(key)]
        parts = [repr(summary["recipe"]), summary["bits"], *values, f"path={str(self.path)!r}"]
        return f"<qdrop.Quantized {', '.join(parts)}>"


def _is_shown(key: str) -> bool:
    return key not in ("images", "broken") and not key.endswith("_standard_error")


def _read_report(path: Path) -> tuple[str, Dict[str, Any]]:
    text, summary = _native.report(str(path))
    return text.rstrip("\n"), json.loads(summary)


def load(path: Union[str, os.PathLike[str]]) -> Quantized:
    """Open a result that ``quantize(..., out=path)`` or ``qdrop quantize --out`` saved, or a packed file.

    Parameters
    ----------
    path
        The folder, or the file: ``model.safetensors`` of a folder, or what ``export(file, format="packed")`` wrote.

    Returns
    -------
    Quantized
        The quantized network.

    Raises
    ------
    InputError
        There is no finished result, or a damaged one.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    return Quantized(path.absolute())
