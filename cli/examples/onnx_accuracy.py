"""Measures the top-1 accuracy of a network as ONNX file in onnxruntime.

Usage: onnx_accuracy.py NET.onnx FOLDER [--resize 256] [--threads 1]. FOLDER has `val/CLASS/IMAGE`, and the classes in the order
of their names, or a part of ImageNet's synsets. Images are preprocessed as torchvision does: the shorter side to `--resize`
pixels, the center crop that the network takes, ImageNet's mean and deviation. Needs numpy, onnxruntime and Pillow.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

SYNSETS = Path(__file__).resolve().parents[2] / "plugins/src/datasets/imagenet_synsets.txt"
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def load(file, resize, size):
    image = Image.open(file).convert("RGB")
    width, height = image.size
    short = min(width, height)
    image = image.resize((width * resize // short, height * resize // short), Image.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("network")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    session = onnxruntime.InferenceSession(arguments.network, options, providers=["CPUExecutionProvider"])
    name, size = session.get_inputs()[0].name, session.get_inputs()[0].shape[2]
    folders = sorted(path for path in (arguments.folder / "val").iterdir() if path.is_dir())
    synsets = SYNSETS.read_text().split()
    part = all(folder.name in synsets for folder in folders)
    files = [
        (file, synsets.index(folder.name) if part else index)
        for index, folder in enumerate(folders)
        for file in sorted(folder.iterdir())
    ]
    right, seconds = [], 0.0
    for first in range(0, len(files), 32):
        batch = files[first : first + 32]
        images = np.stack([load(file, arguments.resize, size) for file, _ in batch])
        start = time.perf_counter()
        logits = session.run(None, {name: images})[0]
        seconds += time.perf_counter() - start
        right += [int(row.argmax()) == target for row, (_, target) in zip(logits, batch)]
    accuracy = np.mean(right)
    error = np.sqrt(accuracy * (1 - accuracy) / (len(right) - 1))
    print(f"top-1 {100 * accuracy:.2f} % (standard error {100 * error:.2f}) of {len(right)} images, {len(right) / seconds:.0f} images/s")


main()
