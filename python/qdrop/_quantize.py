"""Quantization."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Tuple, Union

from . import _data, _model, _native
from ._data import change
from ._errors import InputError
from ._inputs import Inputs
from ._progress import Progress
from ._result import Quantized

if TYPE_CHECKING:
    import torch

    from ._data import Images, PerChannel

BITS = "w4a4"
PRESETS = {None: "best", "fast": "best", "published": "imagenet"}


class Request(NamedTuple):
    """The recipe that runs."""

    name: str
    bits: Optional[str]
    preset: Optional[str]
    changes: List[str]
    iters: Optional[int]
    weights: Optional[str]
    data: Optional[str]


def quantize(
    model: Union[str, os.PathLike[str], bytes, torch.nn.Module],
    images: Optional[Images] = None,
    bits: Optional[str] = None,
    preset: Optional[str] = None,
    progress: bool = True,
    *,
    labels: Optional[Images] = None,
    eval_images: Optional[Images] = None,
    mean: Optional[PerChannel] = None,
    std: Optional[PerChannel] = None,
    image_size: Union[int, Tuple[int, int], None] = None,
    weights: Union[str, os.PathLike[str], None] = None,
    iters: Optional[int] = None,
    seed: Optional[int] = None,
    set: Optional[Dict[str, Any]] = None,
    out: Union[str, os.PathLike[str], None] = None,
    device: str = "cpu",
) -> Quantized:
    """Quantize a network with a few hundred to a thousand images, and measure it.

    Parameters
    ----------
    model
        The network. One of

        * the path of an ONNX file, or its content as bytes;
        * a ``torch.nn.Module``, which ``torch.onnx.export`` writes to such a file as it computes in evaluation mode; the size of
          its input is that of `images`, or `image_size`;
        * the name of a built-in architecture with `weights`, such as ``"resnet18"``;
        * a recipe: the name of a built-in one (the program lists them with ``qdrop recipes``) or a YAML file.
    images
        The images to calibrate with. One of

        * an array of shape (N, C, H, W) or (N, H, W, C), or the path of a ``.npy`` file of one. ``float32`` is taken as it is,
          preprocessed as the network needs it; ``uint8`` holds pixels, which are normalized with `mean` and `std`. Images have
          the size of the network's input;
        * a folder with ``train/`` and ``val/`` and, in each, one folder of images for each class;
        * any other folder of images. All images in it and below it are used.

        A recipe may know its images, and need not be given others.
    bits
        Bits of weights and activations, such as ``"w8a8"`` or ``"w2a4"``. The default is ``"w4a4"``, or what the recipe says.
    preset
        How the network is quantized: ``"fast"``, the default, has what was found to help and takes minutes; ``"published"`` is
        QDrop as it was published, and takes hours. A recipe says it by itself.
    progress
        Whether progress is shown: a bar of tqdm if it is installed, on a terminal or in a notebook, and else lines on a terminal.
    labels
        The classes of the images that the network is measured on, those of `eval_images` if they are given: integers in an array
        or a ``.npy`` file; for a folder without class folders a file with the labels. Without labels, the quantized network is
        compared with the float network alone.
    eval_images
        The images to measure the network on, of the same kind as `images`. By default they are the same.
    mean, std
        Mean and standard deviation of pixels in [0, 1], a number or one for each channel. By default those of ImageNet.
    image_size
        The height and width of a module's input, if `images` is a folder.
    weights
        The checkpoint with the weights of a built-in architecture.
    iters
        Steps of reconstruction for each unit, with learning rates to match.
    seed
        Seed of every random draw. The same seed gives the same result.
    set
        Further values of the recipe by their keys, such as ``{"quant.weight.observer": "minmax"}``.
    out
        A folder in which to save the run; `load` opens it later, and ``qdrop resume`` continues it after an interruption. Arrays,
        modules and bytes are kept beside it, in ``OUT.inputs``. By default the result lives as long as the object that is returned.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Returns
    -------
    Quantized
        The quantized network.

    Raises
    ------
    Error
        An input cannot be used (`InputError`), a file cannot be read or written (`FileError`), or another of its subclasses.
    KeyboardInterrupt
        Ctrl-C was pressed. With `out`, ``qdrop resume`` continues.

    Warns
    -----
    UserWarning
        Something about the images or the network should be known, such as images that cannot be read.

    Examples
    --------
    >>> result = qdrop.quantize("demo")
    >>> result.evaluate()["top1"]
    """
    inputs = Inputs(out)
    onnx = _model.onnx_file(model, images, image_size, inputs)
    name, of_recipe = onnx, False
    if name is None:
        name, bits, preset, of_recipe = _recipe(str(model), bits, preset)
    data = _data.find(images, eval_images, labels, mean, std, inputs, of_recipe=of_recipe)
    changes = list(data.changes)
    if seed is not None:
        changes.append(change("seed", seed))
    changes += [change(key, value) for key, value in (set or {}).items()]
    path = None if weights is None else os.fspath(weights)
    listener = Progress(progress)
    try:
        request = Request(name, bits, preset, changes, iters, path, data.folder)
        _native.quantize(request, device, str(inputs.result), listener)
    finally:
        listener.finished()
    return Quantized(inputs.result, inputs)


def _recipe(name: str, bits: Optional[str], preset: Optional[str]) -> Tuple[str, Optional[str], Optional[str], bool]:
    """Return the recipe of a built-in architecture, or the one of this name; what it does not say; and whether it is the latter."""
    known = _native.recipes()
    folder = PRESETS.get(preset, "best")
    of_network = [recipe.rsplit("_", 1)[1] for recipe in known if recipe.startswith(f"{folder}/{name}_")]
    if not of_network:
        return name, bits, preset, True
    if (bits or BITS) not in of_network:
        raise InputError(f"bits: there is no recipe for {bits} of {name}; known: {', '.join(of_network)}")
    return f"{folder}/{name}_{bits or BITS}", None, None if preset in PRESETS else preset, False
