"""Exports networks of torchvision with random weights by both of PyTorch's exporters, and runs them in onnxruntime.

Usage: onnx_models.py FOLDER NETWORK... Writes NETWORK-new.onnx and NETWORK-old.onnx of each network, and beside each a file .safetensors with
`images` and `logits`. Needs torch, torchvision, onnx, onnxscript, onnxruntime, safetensors and numpy.
"""

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from safetensors.numpy import save_file

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def network(name):
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(weights=None, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # Statistics with which the normalization does something.
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model.eval()


def export(model, file, size, new):
    image = torch.randn(2, 3, size, size)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    if new:
        batch = torch.export.Dim.AUTO
        torch.onnx.export(
            model, (image,), file, opset_version=20, dynamo=True, dynamic_shapes=({0: batch},), verbose=False, **names
        )
    else:
        axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(model, (image,), file, opset_version=17, dynamo=False, dynamic_axes=axes, **names)


def run(file, size):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    logits = session.run(None, {session.get_inputs()[0].name: images})[0]
    save_file({"images": images, "logits": np.ascontiguousarray(logits)}, str(file.with_suffix(".safetensors")))


def main(folder, *names):
    for name in names:
        size = 299 if name == "inception_v3" else 224
        model = network(name)
        for kind in ("new", "old"):
            file = Path(folder) / f"{name}-{kind}.onnx"
            export(model, str(file), size, kind == "new")
            run(file, size)


main(*sys.argv[1:])
