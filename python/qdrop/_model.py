"""Networks: names of recipes and architectures, ONNX files and their bytes, and modules of PyTorch."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

from ._errors import InputError
from ._inputs import Inputs


def onnx_file(model: Any, images: Any, image_size: Union[int, Tuple[int, int], None], inputs: Inputs) -> Optional[str]:
    """Return the ONNX file of a network; `None` for the name of a recipe or an architecture."""
    if isinstance(model, (bytes, bytearray, memoryview)):
        file = inputs.file("model.onnx")
        file.write_bytes(model)
        return str(file)
    if isinstance(model, (str, os.PathLike)):
        return str(Path(model).absolute()) if os.fspath(model).endswith(".onnx") else None
    # A module cannot be there if PyTorch was not imported.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return str(_export(torch, model, _input_shape(images, image_size), inputs.file(f"{type(model).__name__}.onnx")))
    kind = type(model).__name__
    raise InputError(f"model: a path, a name, the bytes of an ONNX file or a torch.nn.Module is needed, not {kind}")


def _input_shape(images: Any, image_size: Union[int, Tuple[int, int], None]) -> Tuple[int, int, int]:
    """Return the channels, height and width of a module's input."""
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        return 3, height, width
    if isinstance(images, (str, os.PathLike)) and Path(images).suffix == ".npy":
        import numpy as np

        images = np.load(images, mmap_mode="r", allow_pickle=False)
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    if len(shape) != 4:
        raise InputError("image_size: is needed to export a module whose images are no array, such as image_size=224")
    # Channels are fewer than rows and columns.
    return shape[1:] if shape[1] <= shape[3] else (shape[3], shape[1], shape[2])


def _export(torch: Any, module: Any, shape: Tuple[int, int, int], file: Path) -> Path:
    """Export a module as it computes in evaluation mode; its own mode stays."""
    modes = [(part, part.training) for part in module.modules()]
    first = next(iter(module.parameters()), None)
    place: Dict[str, Any] = {} if first is None else {"dtype": first.dtype, "device": first.device}
    # One image would be taken for a constant.
    example = torch.zeros((2, *shape), **place)
    options: Dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    known = inspect.signature(torch.onnx.export).parameters
    if "dynamo" in known and importlib.util.find_spec("onnxscript") is not None:
        options.update(dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False)
        if "external_data" in known:
            # One file.
            options.update(external_data=False)
    else:
        if "dynamo" in known:
            options.update(dynamo=False)
        options.update(dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})
    try:
        module.eval()
        with torch.no_grad(), warnings.catch_warnings():
            # They are about the exporter itself.
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (example,), str(file), **options)
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        raise InputError(f"model: torch.onnx.export cannot export the module for images of {shape}: {text}") from error
    finally:
        for part, mode in modes:
            part.training = mode
    return file
