"""Post-training quantization of vision networks to 2, 3 and 4 bits with QDrop (Wei et al., ICLR 2022).

Examples
--------
>>> import qdrop
>>> result = qdrop.quantize("demo")  # an embedded network and its images
>>> print(result.report())

``quantize`` takes networks of PyTorch and ONNX files too. The program ``qdrop`` does the same on the command line.
"""

from ._errors import DeviceError, Error, FileError, InputError, InternalError
from ._native import VERSION as __version__
from ._quantize import quantize
from ._result import Quantized, Report, load

__all__ = [
    "DeviceError",
    "Error",
    "FileError",
    "InputError",
    "InternalError",
    "Quantized",
    "Report",
    "load",
    "quantize",
]
