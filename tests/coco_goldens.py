#!/usr/bin/env python3
"""Writes golden/coco.safetensors: a picture as mmdetection and torchvision preprocess it for their detectors.

    pip install numpy "opencv-python-headless<5" torch torchvision safetensors && python3 tests/coco_goldens.py

mmdetection's steps are those of mmcv's `rescale_size`, `imresize`, `imflip` and `imnormalize`, which are calls of OpenCV.
"""
import pathlib

import cv2
import numpy as np
import torch
import torchvision
from safetensors.numpy import save_file
from torchvision.models.detection.transform import GeneralizedRCNNTransform

SHORT, LONG = 24, 40
# Left, top, width and height of a small part of the picture, which is enlarged.
PART = (13, 7, 20, 13)
RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
TORCHVISION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def from_mmdet(bgr, mean_std, to_rgb, flip):
    height, width = bgr.shape[:2]
    scale = min(LONG / max(height, width), SHORT / min(height, width))
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    image = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR)
    image = np.flip(image, axis=1) if flip else image
    image = image.astype(np.float32)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if to_rgb else image
    mean, std = (np.float64(values).reshape(1, -1) for values in mean_std)
    image = cv2.multiply(cv2.subtract(np.ascontiguousarray(image), mean), 1 / std)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def from_torchvision(bgr, flip):
    transform = GeneralizedRCNNTransform(SHORT, LONG, *TORCHVISION).eval()
    rgb = np.ascontiguousarray(bgr[:, ::-1, ::-1] if flip else bgr[:, :, ::-1])
    images, _ = transform([torch.from_numpy(rgb).permute(2, 0, 1).float() / 255])
    height, width = images.image_sizes[0]
    assert not images.tensors[0, :, height:].any() and not images.tensors[0, :, :, width:].any()
    return images.tensors[0, :, :height, :width].contiguous().numpy()


def main():
    # With several threads PyTorch rounds the places that it reads once more.
    torch.set_num_threads(1)
    golden = pathlib.Path(__file__).parent / "golden"
    photo = cv2.imread(str(golden / "photo_decoded.png"))
    left, top, width, height = PART
    part = np.ascontiguousarray(photo[top : top + height, left : left + width])
    tensors = {}
    for name, picture, flip in ("photo", photo, False), ("photo.flipped", photo, True), ("part", part, False):
        tensors[f"mmdet.{name}"] = from_mmdet(picture, RGB, True, flip)
        tensors[f"torchvision.{name}"] = from_torchvision(picture, flip)
    tensors["caffe.part"] = from_mmdet(part, CAFFE, False, False)
    save_file(tensors, golden / "coco.safetensors")
    sizes = {name: tensor.shape for name, tensor in tensors.items()}
    print(f"OpenCV {cv2.__version__}, torchvision {torchvision.__version__}: {golden}/coco.safetensors {sizes}")


main()
