#!/usr/bin/env python3
"""Writes golden/detectors.json: features and detections of torchvision's detectors, and by the rules of mmdetection's.

    pip install torch torchvision safetensors && python3 tests/detection_golden.py

Weights are made by a formula, as in cross_check.py. The test `detection.rs` makes the same weights and images. mmdetection 2
cannot be installed beside a recent PyTorch: its networks are written here with torch, and its rules are those of
core/kernels/src/boxes/tests/golden.py.
"""
import json
import math
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

TESTS = pathlib.Path(__file__).parent
sys.path.insert(0, str(TESTS.parent / "core/kernels/src/boxes/tests"))
import golden as rules  # noqa: E402

PADDED, RESIZED, ORIGINAL = (128, 192), (120, 185), (240, 371)
SIZES = (RESIZED, ORIGINAL)
# Values of each level that are kept, spread over it.
KEPT = 60


def values(name: str, shape: tuple) -> torch.Tensor:
    """As in cross_check.py, but layers that give scores are sure of something, and deltas are small."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    wave = np.sin(i * i * 0.001 + i * 1.7 + sum(name.encode()))
    if len(shape) == 1 and name.endswith(("running_var", "weight")):
        v = 1.0 + 0.3 * wave
    elif len(shape) == 1:
        v = 0.1 * wave
    else:
        v = wave * np.sqrt(2.0 / np.prod(shape[1:]))
    # Residual branches are weak, so that a hundred layers stay near 1.
    if name.endswith("bn3.weight"):
        v = v * 0.2
    if any(part in name for part in ("cls_score", "fc_cls")):
        v = v * 6.0
    if any(part in name for part in ("bbox_pred", "bbox_reg", "rpn_reg", "retina_reg", "fc_reg")):
        v = v * 0.3
    if name.endswith(("cls_logits.weight", "retina_cls.weight")) and shape[0] > 3:
        v = v * 2.0
    if name.endswith(("cls_logits.bias", "retina_cls.bias")) and shape[0] > 3:
        v = v - 2.0
    return torch.from_numpy(v.astype(np.float32).reshape(shape))


def images() -> torch.Tensor:
    i = np.arange(3 * PADDED[0] * PADDED[1], dtype=np.float64)
    x = torch.from_numpy(np.sin(i * 0.37 + i * i * 1e-5).astype(np.float32).reshape(1, 3, *PADDED))
    x[:, :, RESIZED[0]:, :] = 0
    x[:, :, :, RESIZED[1]:] = 0
    return x


def entry(name: str, architecture: str, variant: str, features: list, found: tuple) -> dict:
    boxes, scores, labels = found
    digits = lambda t: [float(f"{v:.7g}") for v in t.flatten().tolist()]
    kept = [level.flatten()[:: max(1, level.numel() // KEPT)] for level in features]
    print(f"{name}: {[tuple(level.shape) for level in features]}, {len(boxes)} objects, scores to {scores.min():.3f}, "
          f"features {[round(float(level.abs().max()), 2) for level in features]}")
    return {
        "name": name, "architecture": architecture, "variant": variant,
        "features": [{"shape": list(level.shape), "values": digits(k)} for level, k in zip(features, kept)],
        "boxes": [digits(b) for b in boxes], "scores": digits(scores), "labels": labels.tolist(),
    }


def load(net: torch.nn.Module) -> torch.nn.Module:
    state = net.eval().state_dict()
    net.load_state_dict({key: values(key, tuple(t.shape)) if t.dim() else t for key, t in state.items()})
    overwrite_eps(net, 0.0)
    return net


def torchvision_networks() -> list:
    x = images()
    listed = ImageList(x, [RESIZED])
    found = []
    net = load(torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None))
    features = net.backbone(x)
    proposals, _ = net.rpn(listed, features)
    results, _ = net.roi_heads(features, proposals, listed.image_sizes)
    result = net.transform.postprocess(results, listed.image_sizes, [ORIGINAL])[0]
    levels = [level for key, level in features.items() if key != "pool"]
    found.append(entry("torchvision fasterrcnn_resnet50_fpn", "faster_rcnn_r50_fpn", "torchvision", levels,
                       (result["boxes"], result["scores"], result["labels"])))
    net = load(torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None))
    features = list(net.backbone(x).values())
    outputs = net.head(features)
    anchors = net.anchor_generator(listed, features)
    counts = [f.shape[2] * f.shape[3] * 9 for f in features]
    split = {key: list(value.split(counts, dim=1)) for key, value in outputs.items()}
    results = net.postprocess_detections(split, [list(a.split(counts)) for a in anchors], listed.image_sizes)
    result = net.transform.postprocess(results, listed.image_sizes, [ORIGINAL])[0]
    found.append(entry("torchvision retinanet_resnet50_fpn", "retinanet_r50_fpn", "torchvision", features,
                       (result["boxes"], result["scores"], result["labels"])))
    return found


def conv(x: torch.Tensor, name: str, out: int, kernel: int, stride: int = 1) -> torch.Tensor:
    weight = values(f"{name}.weight", (out, x.shape[1], kernel, kernel))
    return F.conv2d(x, weight, values(f"{name}.bias", (out,)), stride, kernel // 2)


def linear(x: torch.Tensor, name: str, out: int) -> torch.Tensor:
    return F.linear(x, values(f"{name}.weight", (out, x.shape[1])), values(f"{name}.bias", (out,)))


def mmdet_body(depth: int) -> list:
    body = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    state = {key: t for key, t in body.state_dict().items() if not key.startswith("fc.")}
    made = {key: values(f"backbone.{key}", tuple(t.shape)) if t.dim() else t for key, t in state.items()}
    body.load_state_dict(made, strict=False)
    x = body.maxpool(body.relu(body.bn1(body.conv1(images()))))
    stages = []
    for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
        x = stage(x)
        stages.append(x)
    return stages


def mmdet_neck(stages: list) -> list:
    merged = [conv(c, f"neck.lateral_convs.{i}.conv", 256, 1) for i, c in enumerate(stages)]
    for i in reversed(range(len(merged) - 1)):
        merged[i] = merged[i] + F.interpolate(merged[i + 1], size=merged[i].shape[-2:], mode="nearest")
    return [conv(m, f"neck.fpn_convs.{i}.conv", 256, 3) for i, m in enumerate(merged)]


def mmdet_faster(depth: int) -> dict:
    levels = mmdet_neck(mmdet_body(depth))
    logits, deltas = [], []
    for level in levels + [levels[-1][:, :, ::2, ::2]]:
        shared = conv(level, "rpn_head.rpn_conv", 256, 3).relu()
        logits.append(conv(shared, "rpn_head.rpn_cls", 3, 1)[0])
        deltas.append(conv(shared, "rpn_head.rpn_reg", 12, 1)[0])
    boxes, _ = rules.mm_propose(logits, deltas, RESIZED)
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    place = torch.floor(torch.log2(side / 56 + 1e-6)).clamp(0, 3).long()
    pooled = torch.zeros(len(boxes), 256, 7, 7)
    for i, level in enumerate(levels):
        own = place == i
        pooled[own] = roi_align(level, [boxes[own]], 7, 1 / (4 << i), -1, True)
    x = linear(pooled.flatten(1), "roi_head.bbox_head.shared_fcs.0", 1024).relu()
    x = linear(x, "roi_head.bbox_head.shared_fcs.1", 1024).relu()
    scores, deltas = linear(x, "roi_head.bbox_head.fc_cls", 81), linear(x, "roi_head.bbox_head.fc_reg", 320)
    found = rules.mm_classify(boxes, scores, deltas, SIZES)
    return entry(f"mmdet faster_rcnn_r{depth}_fpn", f"faster_rcnn_r{depth}_fpn", "mmdet", levels, found)


def mmdet_retina(depth: int) -> dict:
    stages = mmdet_body(depth)[1:]
    levels = mmdet_neck(stages)
    levels.append(conv(stages[-1], "neck.fpn_convs.3.conv", 256, 3, 2))
    levels.append(conv(levels[-1], "neck.fpn_convs.4.conv", 256, 3, 2))
    logits, deltas = [], []
    for level in levels:
        classes = boxes = level
        for i in range(4):
            classes = conv(classes, f"bbox_head.cls_convs.{i}.conv", 256, 3).relu()
            boxes = conv(boxes, f"bbox_head.reg_convs.{i}.conv", 256, 3).relu()
        logits.append(conv(classes, "bbox_head.retina_cls", 720, 3)[0])
        deltas.append(conv(boxes, "bbox_head.retina_reg", 36, 3)[0])
    found = rules.mm_retina(logits, deltas, 80, SIZES)
    return entry(f"mmdet retinanet_r{depth}_fpn", f"retinanet_r{depth}_fpn", "mmdet", levels, found)


def main() -> None:
    with torch.no_grad():
        found = torchvision_networks()
        found += [mmdet_faster(50), mmdet_retina(18), mmdet_retina(50), mmdet_retina(101)]
    file = TESTS / "golden" / "detectors.json"
    file.write_text("[\n" + ",\n".join("  " + json.dumps(e) for e in found) + "\n]\n")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}: {file}, {file.stat().st_size} bytes")


main()
