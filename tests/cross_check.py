#!/usr/bin/env python3
"""Writes golden/logits.json: logits, parameter counts and operations of torchvision's and timm's networks.

    pip install torch torchvision timm && python3 tests/cross_check.py

Weights are made by a formula. The test `architectures.rs` makes the same weights and images, so that
neither has to be stored.
"""
import json
import pathlib
import zlib

import numpy as np
import timm
import torch
import torchvision

SIZE, CLASSES = 64, 10
# Our architecture and its parameters, and the other library's name of the network.
TORCHVISION = [
    ("resnet18", {}, "resnet18"),
    ("resnet34", {}, "resnet34"),
    ("resnet50", {}, "resnet50"),
    ("resnet101", {}, "resnet101"),
    ("resnet152", {}, "resnet152"),
    ("resnext50_32x4d", {}, "resnext50_32x4d"),
    ("wide_resnet50_2", {}, "wide_resnet50_2"),
    ("mobilenet_v2", {}, "mobilenet_v2"),
    ("regnetx_400m_tv", {}, "regnet_x_400mf"),
    ("regnetx_800m", {}, "regnet_x_800mf"),
    ("regnetx_1600m", {}, "regnet_x_1_6gf"),
    ("regnetx_3200m", {}, "regnet_x_3_2gf"),
    ("regnety_400m", {}, "regnet_y_400mf"),
    ("regnety_800m_tv", {}, "regnet_y_800mf"),
    ("regnety_1600m", {}, "regnet_y_1_6gf"),
    ("regnety_3200m", {}, "regnet_y_3_2gf"),
    ("mnasnet", {"scale": 0.5}, "mnasnet0_5"),
    ("mnasnet", {"scale": 1.0}, "mnasnet1_0"),
    ("mnasnet", {"scale": 1.3}, "mnasnet1_3"),
]
TIMM = [
    ("resnet18", {}, "resnet18"),
    ("resnet50", {}, "resnet50"),
    ("mobilenet_v2", {}, "mobilenetv2_100"),
    ("mnasnet", {"scale": 1.0}, "mnasnet_100"),
] + [
    (f"regnet{kind}_{ours}", {}, f"regnet{kind}_{theirs}")
    for kind in "xy"
    for ours, theirs in [
        ("200m", "002"), ("400m", "004"), ("600m", "006"), ("800m", "008"), ("1600m", "016"),
        ("3200m", "032"), ("4000m", "040"), ("6400m", "064"),
    ]
]


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


def logits(net: torch.nn.Module, image: torch.Tensor) -> list:
    state = net.eval().state_dict()
    for key, tensor in state.items():
        if not key.endswith("num_batches_tracked"):
            state[key] = torch.from_numpy(values(key, tuple(tensor.shape)))
    net.load_state_dict(state)
    with torch.no_grad():
        return [[float(f"{v:.7g}") for v in row] for row in net(image).tolist()]


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def checksum(net: torch.nn.Module) -> int:
    """CRC-32 of the names of all tensors."""
    names = [key for key in net.state_dict() if not key.endswith("num_batches_tracked")]
    return zlib.crc32("\n".join(sorted(names)).encode())


def main() -> None:
    i = np.arange(2 * 3 * SIZE * SIZE, dtype=np.float64)
    image = torch.from_numpy(np.sin(i * 0.37 + i * i * 1e-5).astype(np.float32).reshape(2, 3, SIZE, SIZE))
    golden = []
    for ours, params, theirs in TORCHVISION:
        meta = torchvision.models.get_model_weights(theirs).DEFAULT.meta
        net = torchvision.models.get_model(theirs, weights=None, num_classes=CLASSES)
        entry = {"library": "torchvision", "name": theirs, "architecture": ours, "params": params}
        # As published with the weights; operations are multiply-accumulates in units of 1e9.
        entry |= {"parameters": meta["num_params"], "gmacs": meta["_ops"], "names": checksum(net)}
        golden.append(entry | {"logits": logits(net, image)})
    for ours, params, theirs in TIMM:
        whole = timm.create_model(theirs)
        net = timm.create_model(theirs, num_classes=CLASSES)
        entry = {"library": "timm", "name": theirs, "architecture": ours, "params": params}
        entry |= {"parameters": parameters(whole), "gmacs": None, "names": checksum(net)}
        golden.append(entry | {"logits": logits(net, image)})
    file = pathlib.Path(__file__).parent / "golden" / "logits.json"
    file.write_text("[\n" + ",\n".join("  " + json.dumps(entry) for entry in golden) + "\n]\n")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}: {file}")


main()
