"""Runs exported networks in onnxruntime and prints, as JSON, how far they are from qdrop.

Usage: onnx_export.py FOLDER. Each folder in FOLDER has case.json (shape of the images, number of outputs), images.bin,
logits.bin and files *.onnx; `float.onnx` is compared with float.bin. `speed` in case.json lists numbers of images: with so many at
once, the float network and the one in integers are timed on one thread. Needs numpy, onnx and onnxruntime.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

onnxruntime.set_default_logger_severity(4)
# Measurements of each network.
TURNS = 9


def load(file, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, optimized=None):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run(file, level, images, optimized=None):
    session = load(file, level, optimized)
    name = session.get_inputs()[0].name
    batches = [images[i : i + 64] for i in range(0, len(images), 64)]
    logits = np.concatenate([session.run(None, {name: batch})[0] for batch in batches])
    return logits.reshape(len(images), -1)


def compare(logits, ours):
    return {
        "equal": float((logits.argmax(1) == ours.argmax(1)).mean()),
        "error": float(np.abs(logits - ours).mean() / ours.std()),
    }


def speed(folder, images, batch):
    """Images per second of the float network and of the one in integers, in turns, and the median of their ratios."""
    sessions = {name: load(folder / f"{name}.onnx") for name in ("float", "integer")}
    batch = images[:batch]
    times = {name: [] for name in sessions}
    for turn in range(TURNS + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            for _ in range(max(1, 16 // len(batch))):
                session.run(None, {session.get_inputs()[0].name: batch})
            if turn > 0:
                times[name].append((time.perf_counter() - start) / max(16, len(batch)))
    result = {name: float(1 / np.median(seconds)) for name, seconds in times.items()}
    result["ratio"] = float(np.median(np.divide(times["float"], times["integer"])))
    return result


def check(folder):
    case = json.loads((folder / "case.json").read_text())
    read = lambda name, shape: np.fromfile(folder / name, np.float32).reshape(shape)
    images = read("images.bin", case["images"])
    levels = onnxruntime.GraphOptimizationLevel
    result = {"case": folder.name, "onnxruntime": onnxruntime.__version__, "files": {}}
    for file in sorted(folder.glob("*.onnx")):
        onnx.checker.check_model(str(file), full_check=True)
        model = onnx.load(file)
        ours = read("float.bin" if file.stem == "float" else "logits.bin", (len(images), -1))
        optimized = folder / "optimized"
        off = run(file, levels.ORT_DISABLE_ALL, images)
        on = run(file, levels.ORT_ENABLE_ALL, images, optimized)
        operators = Counter(node.op_type for node in onnx.load(optimized).graph.node)
        result["files"][file.stem] = {
            "off": compare(off, ours),
            "on": compare(on, ours),
            "operators": dict(operators),
            "convolutions": sum(node.op_type == "Conv" for node in model.graph.node),
            "domains": [opset.domain for opset in model.opset_import],
            "input": [model.graph.input[0].name, str(model.graph.input[0].type.tensor_type.shape.dim[0].dim_param)],
            "metadata": {p.key: p.value for p in model.metadata_props},
        }
        targets = folder / "targets.bin"
        if targets.exists():
            targets = np.fromfile(targets, np.uint32)
            right = lambda logits: (logits.argmax(1) == targets).astype(float)
            difference = right(on) - right(ours)
            result["files"][file.stem]["accuracy"] = {
                "ours": float(right(ours).mean()),
                "theirs": float(right(on).mean()),
                "standard_error": float(difference.std() / np.sqrt(len(images))),
            }
    if "speed" in case:
        result["speed"] = {str(batch): speed(folder, images, batch) for batch in case["speed"]}
    return result


print(json.dumps([check(folder) for folder in sorted(Path(sys.argv[1]).iterdir()) if folder.is_dir()]))
