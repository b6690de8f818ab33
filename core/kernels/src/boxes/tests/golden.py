#!/usr/bin/env python3
"""Writes golden.safetensors beside this file: what torchvision, and mmdetection's rules, make of the outputs of heads.

    pip install torch torchvision safetensors && python3 golden.py

Inputs are made by a formula, which the Rust tests repeat, so that they need not be stored. torchvision's own code runs
for its family. mmdetection 2 is not needed: its rules are written down here with torch and torchvision.ops, whose
`roi_align(aligned=True, sampling_ratio=-1)` and `nms` compute what mmcv's do. Sorts are stable there.
"""
import math
import pathlib

import numpy as np
import torch
import torchvision
from safetensors.numpy import save_file
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import _default_anchorgen as faster_anchors
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, _default_anchorgen as retina_anchors
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_iou, nms, roi_align

GOLDEN: dict[str, np.ndarray] = {}
MAX_LOG = math.log(1000 / 16)


# --- Inputs, repeated in the tests ---

def unit(seed: int, count: int) -> np.ndarray:
    """Numbers in [0, 1): the upper 24 bits of splitmix64."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed << 40)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**24


def noise(seed: int, shape: tuple, low: float, high: float) -> Tensor:
    """Uniform numbers."""
    values = low + (high - low) * unit(seed, math.prod(shape))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def rare(seed: int, shape: tuple, low: float, spread: float) -> Tensor:
    """Logits of which few are large, and those are far apart: `low + 0.4 / sqrt(1 + spread - u)`."""
    values = low + 0.4 / np.sqrt(1.0 + spread - unit(seed, math.prod(shape)))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def wild(seed: int, shape: tuple) -> Tensor:
    """Deltas up to 1, and one of 50 eight times as large, so that clamps are reached."""
    values = noise(seed, shape, -1.0, 1.0)
    often = torch.from_numpy((unit(seed + 1, math.prod(shape)) < 0.98).reshape(shape))
    return torch.where(often, values, values * 8.0)


def random_boxes(seed: int, count: int, span: float, low: float, high: float) -> Tensor:
    """Boxes with corners in a square and sides between two sizes."""
    corner, size = noise(seed, (count, 2), 0.0, span), noise(seed + 1, (count, 2), low, high)
    return torch.cat([corner, corner + size], 1)


def coarse(seed: int, count: int) -> Tensor:
    """Scores of which many are equal."""
    return torch.floor(noise(seed, (count,), 0.0, 32.0)) / 32.0


def groups_of(seed: int, count: int, groups: int) -> Tensor:
    return torch.floor(noise(seed, (count,), 0.0, float(groups))).to(torch.int64)


# --- What is kept ---

def keep(name: str, value: Tensor) -> None:
    kind = np.int32 if value.dtype == torch.int64 else np.float32
    GOLDEN[name] = np.ascontiguousarray(value.detach().numpy().astype(kind))


def keep_detections(name: str, boxes: Tensor, scores: Tensor, labels: Tensor | None = None) -> None:
    keep(f"{name}.boxes", boxes)
    keep(f"{name}.scores", scores)
    if labels is not None:
        keep(f"{name}.labels", labels)
    print(f"{name}: {len(boxes)}")


# --- mmdetection's rules ---

def mm_batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """mmcv's: always shifted, from 10,000 boxes on group by group."""
    moved = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    if len(boxes) < 10_000:
        return nms(moved, scores, iou)
    stay = torch.zeros(len(boxes), dtype=torch.bool)
    for group in groups.unique():
        own = torch.where(groups == group)[0]
        stay[own[nms(moved[own], scores[own], iou)]] = True
    places = torch.where(stay)[0]
    return places[scores[places].sort(descending=True, stable=True)[1]]


def mm_decode(anchors: Tensor, deltas: Tensor, stds: tuple, image: tuple | None) -> Tensor:
    deltas = deltas * torch.tensor(stds)
    centre, size = (anchors[..., :2] + anchors[..., 2:]) * 0.5, anchors[..., 2:] - anchors[..., :2]
    centre = centre + size * deltas[..., :2]
    size = size * deltas[..., 2:].clamp(-MAX_LOG, MAX_LOG).exp()
    low, high = centre - size * 0.5, centre + size * 0.5
    if image is None:
        return torch.cat([low, high], -1)
    bounds = torch.tensor([image[1], image[0]], dtype=torch.float32)
    corners = [torch.minimum(c.clamp(min=0), bounds) for c in (low, high)]
    return torch.cat(corners, -1)


def mm_anchors(size: tuple, stride: int, scales: list[float]) -> Tensor:
    ratios, scales = torch.tensor([0.5, 1.0, 2.0]), torch.tensor(scales, dtype=torch.float64).float()
    wide, high = stride * (1 / ratios.sqrt())[:, None] * scales, stride * ratios.sqrt()[:, None] * scales
    cell = torch.stack([-0.5 * wide, -0.5 * high, 0.5 * wide, 0.5 * high], -1).reshape(-1, 4)
    y, x = torch.meshgrid(torch.arange(size[0]) * stride, torch.arange(size[1]) * stride, indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4).float()
    return (shifts + cell).reshape(-1, 4)


MM_RETINA = [4.0 * 2 ** (i / 3) for i in range(3)]


def flat(level: Tensor, width: int) -> Tensor:
    """(C, H, W) as rows in the order (y, x, anchor)."""
    return level.permute(1, 2, 0).reshape(-1, width)


def mm_scale(sizes: tuple) -> Tensor:
    (height, width), (old_height, old_width) = sizes
    x, y = width / old_width, height / old_height
    return torch.from_numpy(np.array([x, y, x, y], dtype=np.float32))


def mm_propose(logits: list, deltas: list, image: tuple, limit: int = 1000) -> tuple:
    boxes, scores, levels = [], [], []
    for i, (logit, delta) in enumerate(zip(logits, deltas)):
        score = flat(logit, 1)[:, 0].sigmoid()
        place = torch.arange(len(score))
        if len(score) > 1000:
            score, place = score.sort(descending=True, stable=True)
            score, place = score[:1000], place[:1000]
        anchors = mm_anchors(logit.shape[1:], 4 << i, [8.0])
        boxes.append(mm_decode(anchors[place], flat(delta, 4)[place], (1, 1, 1, 1), image))
        scores.append(score)
        levels.append(torch.full((len(score),), i))
    boxes, scores, levels = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
    large = (boxes[:, 2] - boxes[:, 0] > 0) & (boxes[:, 3] - boxes[:, 1] > 0)
    boxes, scores, levels = boxes[large], scores[large], levels[large]
    stay = mm_batched_nms(boxes, scores, levels, 0.7)[:limit] if len(boxes) else torch.arange(0)
    return boxes[stay], scores[stay]


def mm_finish(boxes: Tensor, scores: Tensor, labels: Tensor, sizes: tuple, limit: int = 100) -> tuple:
    boxes = boxes / mm_scale(sizes)
    stay = mm_batched_nms(boxes, scores, labels, 0.5)[:limit] if len(boxes) else torch.arange(0)
    return boxes[stay], scores[stay], labels[stay]


def mm_classify(proposals: Tensor, logits: Tensor, deltas: Tensor, sizes: tuple) -> tuple:
    classes = logits.shape[1] - 1
    scores = logits.softmax(1)[:, :classes]
    boxes = mm_decode(proposals[:, None], deltas.reshape(-1, classes, 4), (0.1, 0.1, 0.2, 0.2), sizes[0])
    valid = scores > 0.05
    print("   candidates", int(valid.sum()))
    return mm_finish(boxes[valid], scores[valid], valid.nonzero()[:, 1], sizes)


def mm_retina(logits: list, deltas: list, classes: int, sizes: tuple, limit: int = 100) -> tuple:
    boxes, scores, labels = [], [], []
    for i, (logit, delta) in enumerate(zip(logits, deltas)):
        score = flat(logit, classes).sigmoid()
        valid = score > 0.05
        place, (score, order) = valid.nonzero(), score[valid].sort(descending=True, stable=True)
        place, score = place[order][:1000], score[:1000]
        anchors = mm_anchors(logit.shape[1:], 8 << i, MM_RETINA)
        boxes.append(mm_decode(anchors[place[:, 0]], flat(delta, 4)[place[:, 0]], (1, 1, 1, 1), sizes[0]))
        scores.append(score)
        labels.append(place[:, 1])
    print("   candidates", [len(s) for s in scores])
    return mm_finish(torch.cat(boxes), torch.cat(scores), torch.cat(labels), sizes, limit)


# --- torchvision ---

class Fixed(torch.nn.Module):
    """A head that returns given maps."""

    def __init__(self, *maps):
        super().__init__()
        self.maps = maps

    def forward(self, _):
        return tuple([m[None] for m in maps] for maps in self.maps)


def images(sizes: tuple, padded: tuple) -> ImageList:
    return ImageList(torch.zeros(1, 3, *padded), [sizes[0]])


def tv_propose(logits: list, deltas: list, sizes: tuple, padded: tuple, limit: int = 1000) -> tuple:
    first, last = {"training": 1000, "testing": 1000}, {"training": limit, "testing": limit}
    rpn = RegionProposalNetwork(faster_anchors(), Fixed(logits, deltas), 0.7, 0.3, 256, 0.5, first, last, 0.7).eval()
    features = {str(i): m[None] for i, m in enumerate(logits)}
    # The scores are computed but not returned.
    found = []
    real = rpn.filter_proposals
    rpn.filter_proposals = lambda *args: found.append(real(*args)) or found[0]
    rpn(images(sizes, padded), features)
    return found[0][0][0], found[0][1][0]


def tv_rescale(boxes: Tensor, sizes: tuple) -> Tensor:
    return resize_boxes(boxes, sizes[0], sizes[1])


def tv_classify(proposals: Tensor, logits: Tensor, deltas: Tensor, sizes: tuple) -> tuple:
    heads = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, 0.05, 0.5, 100)
    boxes, scores, labels = heads.postprocess_detections(logits, deltas, [proposals], [sizes[0]])
    print("   candidates", int((logits.softmax(1)[:, 1:] > 0.05).sum()))
    return tv_rescale(boxes[0], sizes), scores[0], labels[0]


def tv_retina(logits: list, deltas: list, classes: int, sizes: tuple, padded: tuple, limit: int = 300) -> tuple:
    backbone = torch.nn.Identity()
    backbone.out_channels = 32
    net = RetinaNet(backbone, classes, anchor_generator=retina_anchors(), detections_per_img=limit).eval()
    list_of = images(sizes, padded)
    anchors = net.anchor_generator(list_of, [m[None] for m in logits])
    counts = [m.shape[1] * m.shape[2] * 9 for m in logits]
    outputs = {
        "cls_logits": [flat(m, classes)[None] for m in logits],
        "bbox_regression": [flat(m, 4)[None] for m in deltas],
    }
    split = [list(a.split(counts)) for a in anchors]
    found = net.postprocess_detections(outputs, split, list_of.image_sizes)[0]
    print("   candidates", [int((m.sigmoid() > 0.05).sum()) for m in logits])
    return tv_rescale(found["boxes"], sizes), found["scores"], found["labels"]


# --- Cases ---

def suppression() -> None:
    boxes, scores = random_boxes(10, 400, 100.0, 10.0, 40.0), coarse(12, 400)
    keep("nms.ties", nms(boxes, scores, 0.5))
    for name, count, groups, span in [("few", 900, 8, 60.0), ("many", 1500, 5, 60.0)]:
        boxes, labels = random_boxes(20, count, span, 10.0, 40.0), groups_of(22, count, groups)
        keep(f"batched.{name}.ties", batched_nms(boxes, coarse(23, count), labels, 0.5))
        keep(f"batched.{name}", batched_nms(boxes, noise(24, (count,), 0.0, 1.0), labels, 0.5))
        keep(f"batched.{name}.mmdet", mm_batched_nms(boxes, noise(24, (count,), 0.0, 1.0), labels, 0.5))
    # Small boxes far to the right, in groups with large numbers: the shift rounds edges to 1/128 of a pixel.
    boxes = random_boxes(30, 1000, 10.0, 1.0, 3.0) + torch.tensor([1300.0, 0.0] * 2)
    labels, scores = groups_of(32, 1000, 4) * 26, noise(33, (1000,), 0.0, 1.0)
    whole = batched_nms(boxes, scores, labels, 0.5)
    apart = torchvision.ops.boxes._batched_nms_vanilla(boxes, scores, labels, 0.5)
    assert set(whole.tolist()) != set(apart.tolist()), "the shift must matter in this case"
    keep("batched.rounded", whole)
    keep("batched.apart", apart)
    boxes, labels = random_boxes(40, 10_500, 80.0, 10.0, 40.0), groups_of(42, 10_500, 3) * 40
    keep("batched.split.mmdet", mm_batched_nms(boxes, noise(43, (10_500,), 0.0, 1.0), labels, 0.5))
    keep("batched.split.torchvision", batched_nms(boxes, noise(43, (10_500,), 0.0, 1.0), labels, 0.5))
    # Negative coordinates: shifted groups overlap, so it shows up to which number of boxes they are treated together.
    for count in (1000, 1001, 9999, 10_000):
        boxes, labels = random_boxes(70, count, 60.0, 10.0, 40.0) - 60.0, groups_of(72, count, 6)
        run = batched_nms if count < 2000 else mm_batched_nms
        keep(f"batched.negative.{count}", run(boxes, noise(73, (count,), 0.0, 1.0), labels, 0.5))
    # Intersections over union that are 0.6 and 0.7 as nearly as f32 can say.
    boxes = torch.tensor([[0, 0, 4.0, 1], [1, 0, 5, 1], [0, 50, 8.5, 51], [1.5, 50, 10, 51]])
    for iou in (0.6, 0.7):
        keep(f"nms.edge.{iou}", nms(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), iou))
    keep("iou", box_iou(random_boxes(10, 20, 40.0, 5.0, 40.0), random_boxes(14, 15, 40.0, 5.0, 40.0)))


def anchors() -> None:
    padded, maps = (800, 1088), [(200, 272), (100, 136), (50, 68), (25, 34), (13, 17), (7, 9)]
    for name, made, own in [("rpn", faster_anchors(), maps[:5]), ("retina", retina_anchors(), maps[1:])]:
        features = [torch.zeros(1, 1, *m) for m in own]
        found = made(ImageList(torch.zeros(1, 3, *padded), [padded]), features)[0]
        per_cell = made.num_anchors_per_location()[0]
        parts = found.split([m[0] * m[1] * per_cell for m in own])
        strides = [4 << i for i in range(5)] if name == "rpn" else [8 << i for i in range(5)]
        scales = [8.0] if name == "rpn" else MM_RETINA
        for i, (level, size) in enumerate(zip(parts, own)):
            theirs = mm_anchors(size, strides[i], scales)
            # The first and the last 27 anchors of each level.
            keep(f"anchors.{name}.{i}.torchvision", torch.cat([level[:27], level[-27:]]))
            keep(f"anchors.{name}.{i}.mmdet", torch.cat([theirs[:27], theirs[-27:]]))


def decoding() -> None:
    # Sizes do not change: the exponential of 0 is the same everywhere, so results are compared bit by bit.
    boxes, deltas = random_boxes(45, 100, 1000.0, 1.0, 300.0), noise(47, (100, 4), -3.0, 3.0)
    deltas[:, 2:] = 0.0
    keep("decode.torchvision", BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(deltas, boxes))
    keep("decode.mmdet", mm_decode(boxes, deltas, (0.1, 0.1, 0.2, 0.2), None))


def pooling() -> None:
    # A picture of 536 x 600 pixels, padded to 544 x 608.
    maps = [noise(50 + i, (2, 136 >> i, 152 >> i), -1.0, 1.0) for i in range(4)]
    boxes = torch.cat([
        random_boxes(60, 10, 300.0, 4.0, 300.0),
        torch.tensor([
            [0, 0, 600, 536], [100, 50, 560, 520], [10.5, 20.25, 122.5, 132.25], [0, 0, 224, 224], [1, 2, 449, 450],
            [590, 500, 600, 536], [-60, -40, 100, 90], [500, 400, 700, 640], [900, 900, 1000, 1000], [33, 44, 33, 44],
            [50, 60, 51, 61], [40, 40, 20, 20], [300, 10, 310, 500], [5, 250, 598, 262], [599.5, 535.5, 600, 536],
            # With 3 samples in each of 5 parts, the last is beyond the right edge of the map, and exactly on it.
            [551, 10, 611, 70], [550, 10, 610, 70],
        ]),
    ])
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    features = {str(i): m[None] for i, m in enumerate(maps)}
    levels = torchvision.ops.poolers.LevelMapper(2, 5)([boxes])
    assert set(levels.tolist()) == {0, 1, 2, 3}
    keep("pool.torchvision", pool(features, [boxes], [(536, 600)]))
    assert pool.scales == [0.25, 0.125, 0.0625, 0.03125]
    sizes = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = torch.floor(torch.log2(sizes / 56 + 1e-6)).clamp(0, 3).long()
    assert set(levels.tolist()) == {0, 1, 2, 3}
    out = torch.zeros(len(boxes), 2, 7, 7)
    for i, level in enumerate(maps):
        own = levels == i
        out[own] = roi_align(level[None], [boxes[own]], 7, 1 / (4 << i), -1, True)
    keep("pool.mmdet", out)
    for aligned in (False, True):
        for ratio in (-1, 3):
            found = roi_align(maps[0][None], [boxes[::2]], 5, 0.25, ratio, aligned)
            keep(f"pool.{'aligned' if aligned else 'corner'}.{ratio if ratio > 0 else 'adaptive'}", found)
    keep("pool.pixel", roi_align(noise(59, (1, 2, 1, 1), -1.0, 1.0), [boxes[:8]], 7, 1 / 128, -1, True))
    sides = torch.tensor([
        1.0, 55.9, 56.0, 111.9, 111.9999, 112.0, 112.0001, 200.0, 223.999, 223.9999, 224.0, 300.0, 447.9, 447.9999,
        448.0, 449.0, 2000.0, 0.0,
    ])
    squares = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], 1)
    keep("levels.torchvision", torchvision.ops.poolers.LevelMapper(2, 5)([squares]))
    keep("levels.mmdet", torch.floor(torch.log2(sides / 56 + 1e-6)).clamp(0, 3).long())


def proposals() -> None:
    # Resized sizes, original sizes and padded size; maps of P2 to P6.
    large = (((790, 1066), (553, 746)), (800, 1088), [(200, 272), (100, 136), (50, 68), (25, 34), (13, 17)])
    small = (((30, 61), (40, 81)), (32, 64), [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)])
    for name, (sizes, padded, maps) in [("large", large), ("small", small)]:
        seed = 100 if name == "large" else 150
        logits = [rare(seed + 3 * i, (3, *m), -6.0, 0.004) for i, m in enumerate(maps)]
        deltas = [wild(seed + 3 * i + 1, (12, *m)) for i, m in enumerate(maps)]
        keep_detections(f"propose.{name}.torchvision", *tv_propose(logits, deltas, sizes, padded))
        keep_detections(f"propose.{name}.mmdet", *mm_propose(logits, deltas, sizes[0]))
        # Every box is moved out of the picture.
        away = [torch.cat([torch.full((1, *m), 6000.0 if j % 4 == 0 else 0.0) for j in range(12)]) for m in maps]
        for found in (tv_propose(logits, away, sizes, padded), mm_propose(logits, away, sizes[0])):
            assert len(found[0]) == 0


    # Saturated scores, and boxes that are small, or thinner than torchvision allows. The seed is one of few for which
    # it matters in both families whether boxes are shifted. All proposals are kept, so that the last of a level counts.
    sizes, padded, maps = ((1300, 1333), (650, 666)), (1312, 1344), [(2, 1), (3, 3), (4, 4), (6, 6), (20, 20)]
    logits = [noise(779 + 3 * i, (3, *m), -5.0, 40.0) for i, m in enumerate(maps)]
    deltas = [noise(780 + 3 * i, (12, *m), 0.0, 1.0) for i, m in enumerate(maps)]
    for i, level in enumerate(deltas):
        low = torch.tensor([-0.001, -0.001, -15.0 if i == 3 else -4.1, -4.1] * 3)[:, None, None]
        high = torch.tensor([0.001, 0.001, -11.0 if i == 3 else -3.7, -3.7] * 3)[:, None, None]
        level.copy_(low + (high - low) * level)
    keep_detections("propose.thin.torchvision", *tv_propose(logits, deltas, sizes, padded, 2000))
    keep_detections("propose.thin.mmdet", *mm_propose(logits, deltas, sizes[0], 2000))


def selection() -> None:
    sizes = ((790, 1066), (553, 746))
    boxes = random_boxes(80, 1200, 10.0, 1.0, 3.0) + torch.tensor([1000.0, 0.0] * 2)
    labels, scores = groups_of(82, 1200, 4) * 26, noise(83, (1200,), 0.0, 1.0)
    stay = batched_nms(boxes, scores, labels, 0.5)[:1100]
    apart = torchvision.ops.boxes._batched_nms_coordinate_trick(boxes, scores, labels, 0.5)
    assert set(stay.tolist()) != set(apart.tolist()), "the shift must matter in this case"
    keep_detections("select.torchvision", tv_rescale(boxes[stay], sizes), scores[stay], labels[stay])
    keep_detections("select.mmdet", *mm_finish(boxes, scores, labels, sizes, 1100))


def classes() -> None:
    sizes = ((790, 1066), (553, 746))
    for name, count, high in [("few", 120, 6.0), ("many", 700, 6.5), ("none", 5, 0.5)]:
        boxes = random_boxes(200, count, 700.0, 20.0, 400.0)
        boxes[:, 2].clamp_(max=1066.0), boxes[:, 3].clamp_(max=790.0)
        for family, classes, columns in [("torchvision", 91, 91), ("mmdet", 81, 80)]:
            logits = noise(210, (count, classes), 0.0, high)
            deltas = wild(220, (count, columns * 4)) * 4.0
            head = tv_classify if family == "torchvision" else mm_classify
            keep_detections(f"classify.{name}.{family}", *head(boxes, logits, deltas, sizes))
    # Heights around 0.01.
    boxes = random_boxes(230, 20, 500.0, 20.0, 200.0)
    for family, classes, columns in [("torchvision", 91, 91), ("mmdet", 81, 80)]:
        logits, deltas = noise(240, (20, classes), 0.0, 6.5), noise(250, (20, columns, 4), -1.0, 0.0)
        deltas = deltas * torch.tensor([1.0, 1.0, 1.0, 60.0])
        head = tv_classify if family == "torchvision" else mm_classify
        keep_detections(f"classify.thin.{family}", *head(boxes, logits, deltas.reshape(20, -1), sizes))


def dense() -> None:
    large = (((250, 377), (333, 500)), (256, 384), [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)])
    small = (((30, 61), (40, 81)), (32, 64), [(4, 8), (2, 4), (1, 2), (1, 1), (1, 1)])
    # All detections are kept, so that the last candidate of a level and the lowest score count.
    every = (((70, 90), (140, 180)), (96, 96), [(9, 13), (5, 6), (3, 3), (2, 2), (1, 1)])
    cases = [
        ("large", large, -6.0, 300), ("small", small, -6.0, 350), ("none", small, -10.0, 350),
        ("all", every, -6.0, 400),
    ]
    for name, (sizes, padded, maps), low, seed in cases:
        for family, classes in [("torchvision", 91), ("mmdet", 80)]:
            logits = [rare(seed + 3 * i, (9 * classes, *m), low, 0.004) for i, m in enumerate(maps)]
            deltas = [wild(seed + 3 * i + 1, (36, *m)) for i, m in enumerate(maps)]
            if family == "torchvision":
                found = tv_retina(logits, deltas, classes, sizes, padded, *([10**6] if name == "all" else []))
            else:
                found = mm_retina(logits, deltas, classes, sizes, *([10**6] if name == "all" else []))
            keep_detections(f"dense.{name}.{family}", *found)


def main() -> None:
    for part in (suppression, anchors, pooling, proposals, selection, classes, dense):
        part()
    path = pathlib.Path(__file__).with_name("golden.safetensors")
    save_file(GOLDEN, path)
    print(len(GOLDEN), "tensors,", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
