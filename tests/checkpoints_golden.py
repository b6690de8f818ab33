#!/usr/bin/env python3
"""Writes fixtures/checkpoints/*: the weights of one small network in files as training scripts write them.

    pip install torch numpy onnx onnxscript && python3 tests/checkpoints_golden.py

In each, conv.weight is [1, 2], conv.bias [3, 4], bn.weight [5, 6], bn.bias [7, 8], bn.running_mean [9, 10] and
bn.running_var [11, 12]; the weights that are not to be taken are 100 larger.
"""
import argparse
import collections
import copy
import datetime
import json
import pathlib
import unittest.mock
import zipfile

import numpy as np
import onnx
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.bn = nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


def network(above: float = 0.0) -> Net:
    net = Net()
    with torch.no_grad():
        for i, name in enumerate(("conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")):
            tensor = net.get_parameter(name) if "running" not in name else net.get_buffer(name)
            tensor.copy_(torch.tensor([2 * i + 1.0, 2 * i + 2.0]).reshape(tensor.shape) + above)
    return net


def prefixed(net: nn.Module, prefix: str) -> dict:
    return collections.OrderedDict((prefix + k, v) for k, v in net.state_dict().items())


def training(net: Net) -> dict:
    """All that a script keeps beside the weights."""
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 1, 1, 1)).sum().backward()
    copied = network()
    optimizer.step()
    net.load_state_dict(copied.state_dict())
    return {
        "args": argparse.Namespace(lr=0.1, milestones=[30, 60], out=pathlib.PurePosixPath("/runs/1")),
        "epoch": np.int64(3),
        "best": np.float32(71.5),
        "history": np.arange(6, dtype=np.float64).reshape(2, 3),
        "seen": {1, 2, 3},
        "frozen": frozenset("ab"),
        "blob": bytearray(b"\0\1\2"),
        "when": datetime.datetime(2024, 1, 2, 3, 4, 5),
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "complex": torch.tensor([1 + 2j]),
        "half": torch.ones(2, dtype=torch.float16),
        "bytes": torch.zeros(3, dtype=torch.uint8),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "rng": torch.get_rng_state(),
        "optimizer": optimizer.state_dict(),
        "whole_optimizer": optimizer,
        "criterion": nn.CrossEntropyLoss(weight=torch.ones(2)),
        "device": torch.device("cuda:0"),
        "dtype": torch.bfloat16,
        "size": torch.Size([1, 2]),
        "lambda_of_class": Net,
        "counter": collections.Counter("hello"),
        "default": collections.defaultdict(list, a=[1]),
        "model": net.state_dict(),
    }


def repacked(source: pathlib.Path, target: pathlib.Path, big_endian: bool, compression: int) -> None:
    """The same archive in another form."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            # The code of a script names the folder of its source.
            if "/code/" in entry.filename:
                continue
            data = old.read(entry)
            if big_endian and entry.filename.endswith("byteorder"):
                data = b"big"
            if big_endian and "/data/" in entry.filename:
                # The counter of batches has 8 bytes, alone in its storage.
                width = 8 if len(data) == 8 and int.from_bytes(data, "little") == 0 else 4
                data = b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))
            new.writestr(entry.filename, data)


def without_paths(value: object) -> object:
    """The JSON of an exported program without the stack traces, which name folders of this machine."""
    if isinstance(value, dict):
        return {k: without_paths(v) for k, v in value.items() if k != "stack_trace"}
    return [without_paths(v) for v in value] if isinstance(value, list) else value


def save_program(net: nn.Module, file: pathlib.Path) -> None:
    """torch.export's archive, compressed."""
    torch.export.save(torch.export.export(net, (torch.ones(1, 1, 2, 2),)), file)
    with zipfile.ZipFile(file) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            if name.endswith("models/model.json"):
                data = json.dumps(without_paths(json.loads(data))).encode()
            new.writestr(name, data)


def save_onnx(net: nn.Module, file: pathlib.Path, dynamo: bool) -> None:
    """An ONNX file without the stack traces that PyTorch adds."""
    torch.onnx.export(net, (torch.ones(1, 1, 2, 2),), file, dynamo=dynamo, external_data=False)
    model = onnx.load(file)
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.save(model, file)


def save_legacy(value: object, file: pathlib.Path, **options: int) -> None:
    """The format keeps the path of a module's source, which should not name a folder of this machine."""
    with unittest.mock.patch("inspect.getsourcefile", lambda _: "network.py"):
        torch.save(value, file, _use_new_zipfile_serialization=False, **options)


def main() -> None:
    torch.manual_seed(0)
    folder = pathlib.Path(__file__).parent / "fixtures/checkpoints"
    folder.mkdir(exist_ok=True)
    net, other = network(), network(100.0)
    torch.save(net, folder / "module.pth")
    save_legacy(net, folder / "module_legacy.pth")
    torch.save(nn.DataParallel(net), folder / "data_parallel.pth")
    torch.save({"network": {"best": net}, "epoch": 1}, folder / "module_in_dictionary.pth")
    for protocol in (2, 3, 4, 5):
        torch.save(training(network()), folder / f"training_{protocol}.pth", pickle_protocol=protocol)
    save_legacy(training(network()), folder / "training_legacy.pth")
    save_legacy(training(network()), folder / "training_legacy_4.pth", pickle_protocol=4)
    torch.save({"state_dict": other.state_dict(), "state_dict_ema": net.state_dict()}, folder / "ema.pth")
    averaged = torch.optim.swa_utils.AveragedModel(net)
    torch.save(averaged.state_dict(), folder / "averaged.pth")
    torch.save({"model": other, "ema": copy.deepcopy(net).half(), "updates": 7}, folder / "ema_half_module.pth")
    torch.save(prefixed(net, "_orig_mod.module."), folder / "compiled_parallel.pth")
    torch.save({"hyper_parameters": {"model": "net"}, "state_dict": prefixed(net, "model.backbone.")}, folder / "lightning.pth")
    attributes = net.state_dict()
    attributes["conv.weight"] = nn.Parameter(attributes["conv.weight"])
    attributes["conv.weight"].quantizer = "none"
    attributes["conv.bias"].note = [1, {"a": 2}]
    torch.save(attributes, folder / "attributes.pth")
    views = torch.arange(40.0)
    shared = {k: (v if v.dtype == torch.int64 else views[2 * i + 1 : 2 * i + 3].reshape(v.shape))
              for i, (k, v) in enumerate(net.state_dict().items())}
    torch.save(shared, folder / "one_storage.pth")
    for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16), ("f64", torch.float64)):
        torch.save(network().to(dtype).state_dict(), folder / f"{name}.pth")
    torch.save(net.state_dict(), folder / "plain.pth")
    repacked(folder / "plain.pth", folder / "big_endian.pth", True, zipfile.ZIP_STORED)
    repacked(folder / "plain.pth", folder / "deflated.pth", False, zipfile.ZIP_DEFLATED)
    torch.jit.script(net).save(folder / "script.pth")
    repacked(folder / "script.pth", folder / "torchscript.pth", False, zipfile.ZIP_STORED)
    torch.jit.freeze(torch.jit.script(network().eval())).save(folder / "script.pth")
    repacked(folder / "script.pth", folder / "frozen.pth", False, zipfile.ZIP_DEFLATED)
    (folder / "script.pth").unlink()
    save_program(network().eval(), folder / "program.pt2")
    save_onnx(network().eval(), folder / "newer.onnx", True)
    save_onnx(network().eval(), folder / "older.onnx", False)
    print(f"PyTorch {torch.__version__}: {len(list(folder.iterdir()))} files in {folder}")


main()
