#!/usr/bin/env python3
"""PyTorch baseline of image loading: torchvision's ImageFolder and transforms in a DataLoader.

usage: torch_loading.py DIR train|val WORKERS

Prints {"images_per_second": ...}, the start of the workers included. Needs torch, torchvision and Pillow.
"""
import json
import sys
import time

import torch
from torchvision import datasets, transforms


def main() -> None:
    root, split, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    crop = (
        [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
        if split == "train"
        else [transforms.Resize(256), transforms.CenterCrop(224)]
    )
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    start = time.perf_counter()
    data = datasets.ImageFolder(f"{root}/{split}", transforms.Compose([*crop, transforms.ToTensor(), normalize]))
    loader = torch.utils.data.DataLoader(data, batch_size=64, num_workers=workers)
    images = sum(len(labels) for _, labels in loader)
    print(json.dumps({"images_per_second": images / (time.perf_counter() - start)}))


main()
