#!/usr/bin/env python3
"""Writes golden/logits.json: logits of torchvision's networks with formula-made weights.

    pip install torch torchvision && python3 tests/cross_check.py

The test `architectures.rs` makes the same weights and images by the same formulas, so that neither
has to be stored.
"""
import json
import pathlib

import numpy as np
import torch
import torchvision

SIZE, CLASSES = 64, 10
NETWORKS = {
    "resnet18": ("resnet18", {}),
    "resnet50": ("resnet50", {}),
    "resnext50_32x4d": ("resnext50_32x4d", {}),
    "wide_resnet50_2": ("wide_resnet50_2", {}),
    "mobilenet_v2": ("mobilenet_v2", {}),
    "regnetx_400m": ("regnet_x_400mf", {}),
    "regnetx_800m": ("regnet_x_800mf", {}),
    "regnetx_3200m": ("regnet_x_3_2gf", {}),
    "regnety_400m": ("regnet_y_400mf", {}),
    "mnasnet": ("mnasnet1_0", {}),
}


def values(name: str, shape: tuple) -> np.ndarray:
    """The values of a parameter: noise-like, and of a size that keeps activations near 1."""
    count = int(np.prod(shape))
    i = np.arange(count, dtype=np.float64)
    salt = sum(name.encode())
    wave = np.sin(i * i * 0.001 + i * 1.7 + salt)
    if name.endswith("running_var"):
        v = 1.0 + 0.3 * wave
    elif len(shape) == 1 and name.endswith("weight"):
        v = 1.0 + 0.3 * wave
    elif len(shape) == 1:
        v = 0.1 * wave
    else:
        v = wave * np.sqrt(2.0 / np.prod(shape[1:]))
    return v.astype(np.float32).reshape(shape)


def main() -> None:
    i = np.arange(2 * 3 * SIZE * SIZE, dtype=np.float64)
    image = torch.from_numpy(np.sin(i * 0.37 + i * i * 1e-5).astype(np.float32).reshape(2, 3, SIZE, SIZE))
    golden = {}
    for name, (model, options) in NETWORKS.items():
        net = getattr(torchvision.models, model)(weights=None, num_classes=CLASSES, **options).eval()
        state = net.state_dict()
        for key, tensor in state.items():
            if not key.endswith("num_batches_tracked"):
                state[key] = torch.from_numpy(values(key, tuple(tensor.shape)))
        net.load_state_dict(state)
        with torch.no_grad():
            golden[name] = [[float(f"{v:.7g}") for v in row] for row in net(image).tolist()]
    file = pathlib.Path(__file__).parent / "golden" / "logits.json"
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items())
    file.write_text("{\n" + lines + "\n}\n")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}: {file}")


main()
