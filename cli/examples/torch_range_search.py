#!/usr/bin/env python3
"""PyTorch baseline of the range search: nanoseconds per element and candidate on one thread.

usage: torch_range_search.py 1d|2d ELEMENTS

Each candidate is scored as the published method does: the whole tensor is fake-quantized and compared with
itself, mean |fq(x) - x|^2.4. Prints {"ns": ...}. Needs torch.
"""
import json
import sys
import time

import torch

CANDIDATES = 8


def score(x: torch.Tensor, low: float, high: float, qmax: int) -> torch.Tensor:
    scale = max((high - low) / qmax, 1e-8)
    zero_point = min(max(round(-low / scale), 0), qmax)
    quantized = torch.clamp(torch.round(x / scale) + zero_point, 0, qmax)
    return ((quantized - zero_point) * scale - x).abs().pow(2.4).mean()


def main() -> None:
    kind, elements = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(elements)
    if kind == "1d":
        x = x.relu()
    width = float(x.max() - x.min())
    runs = []
    for _ in range(5):
        start = time.perf_counter()
        for i in range(1, CANDIDATES + 1):
            t = width * i / CANDIDATES
            low = 0.0 if kind == "1d" else -t / 2
            score(x, low, low + t, 15)
        runs.append(time.perf_counter() - start)
    print(json.dumps({"ns": sorted(runs)[2] / CANDIDATES / elements * 1e9}))


main()
