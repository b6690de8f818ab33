#!/usr/bin/env python3
"""Writes golden/average_precision.json: random pictures with boxes and detections, and what pycocotools makes of them.

    pip install pycocotools==2.0.11 && python3 tests/average_precision_golden.py
"""
import contextlib
import io
import json
import pathlib
import random

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Sides of boxes: areas on the limits 32 x 32 and 96 x 96, just beside them, and far from them.
SIDES = [8, 16, 31, 32, 32, 33, 64, 95, 96, 96, 97, 160, 250]


def random_box(draw: random.Random, exact: bool) -> list[float]:
    """A box whose sides are whole numbers if `exact`, so that overlaps are often equal, or equal to a threshold."""
    x, y = draw.randrange(0, 400, 20), draw.randrange(0, 300, 20)
    width = draw.choice(SIDES)
    height = width if draw.random() < 0.6 else draw.choice(SIDES)
    if exact:
        return [x, y, width, height]
    return [round(v + draw.uniform(0.0, 3.0), 2) for v in (x, y, width, height)]


def near(draw: random.Random, box: list[float], exact: bool) -> list[float]:
    """A box that overlaps another one more or less."""
    x, y, width, height = box
    kind = draw.random()
    if kind < 0.2:
        return box
    if kind < 0.5:  # A part of it whose IoU may be a threshold.
        return [x, y, round(width * draw.randrange(8, 21) / 20, 2), height]
    reach = 0.02 + 0.3 * draw.random()
    moved = [x + draw.uniform(-reach, reach) * width, y + draw.uniform(-reach, reach) * height]
    sides = [side * draw.uniform(1.0 - reach, 1.0 + reach) for side in (width, height)]
    return [round(v, 0 if exact else 2) for v in moved] + [max(1.0, round(v, 0 if exact else 2)) for v in sides]


def random_set(draw: random.Random, pictures: int, labels: int, crowded: bool) -> dict:
    """Pictures as lists `truth` (label, x, y, w, h, area, crowd) and `found` (label, x, y, w, h, score)."""
    exact, digits = draw.random() < 0.6, draw.choice([1, 1, 2, 4])
    sloppy, crowds = draw.uniform(0.1, 1.5), draw.choice([0.0, 0.1, 0.4])
    rows = []
    for i, number in enumerate(draw.sample(range(1, 10**6), pictures)):
        truth, found = [], []
        for _ in range(draw.choice([0, 1, 2, 5, 9])):
            again = truth and draw.random() < 0.25
            label, box = draw.randrange(labels), random_box(draw, exact)
            if again:  # Another object at nearly the same place.
                label, box = truth[-1][0], near(draw, truth[-1][1:5], exact)
            if again and exact and draw.random() < 0.7:  # A twin, and a detection that overlaps both alike.
                x, y, width, height = truth[-1][1:5]
                shift = draw.choice([2, 4, 8])
                box = [x + shift, y, width, height]
                found.append([label, x + shift // 2, y, width, height])
            area = box[2] * box[3]
            if draw.random() < 0.4:
                area = draw.choice([area * 0.7, 1024, 1024.01, 1023.99, 9216, 9216.01, 9215.99])
            truth.append([label, *box, round(area, 2), int(draw.random() < crowds)])
        for label, *box, _, _ in truth:
            for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
                other = draw.randrange(labels + 1) if draw.random() < 0.1 else label
                found.append([other, *near(draw, box, exact)])
        for _ in range(round(sloppy * len(truth)) + draw.randrange(2)):
            found.append([draw.randrange(labels + 1), *random_box(draw, exact)])
        if crowded and i == pictures // 2:  # More than the 100 that count, of one label.
            box = truth[0][1:5] if truth else random_box(draw, exact)
            found += [[0, *near(draw, box, exact)] for _ in range(130)]
        draw.shuffle(found)
        found = [row + [round(draw.random(), digits)] for row in found]
        rows.append({"id": number, "truth": truth, "found": found})
    return {"pictures": rows}


def evaluation(data: dict, draw: random.Random) -> COCOeval:
    """The set as pycocotools takes it; annotations and detections of the pictures in random order."""
    truths = [(row["id"], truth) for row in data["pictures"] for truth in row["truth"]]
    founds = [(row["id"], found) for row in data["pictures"] for found in row["found"]]
    for rows in (truths, founds):
        # The order within a picture must stay.
        places = [picture for picture, _ in rows]
        queues = {}
        for picture, row in rows:
            queues.setdefault(picture, []).append(row)
        queues = {picture: iter(queue) for picture, queue in queues.items()}
        draw.shuffle(places)
        rows[:] = [(picture, next(queues[picture])) for picture in places]
    # An annotation with the number 0 would count as not found.
    annotations = [
        {"id": i, "image_id": picture, "category_id": label, "bbox": box, "area": area, "iscrowd": crowd}
        for i, (picture, (label, *box, area, crowd)) in enumerate(truths, 1)
    ]
    results = [
        {"image_id": picture, "category_id": label, "bbox": box, "score": score}
        for picture, (label, *box, score) in founds
    ]
    labels = {annotation["category_id"] for annotation in annotations} | {0}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": row["id"], "width": 640, "height": 480} for row in data["pictures"]],
            "annotations": annotations,
            "categories": [{"id": label} for label in sorted(labels)],
        }
        truth.createIndex()
        found = truth.loadRes(results) if results else COCO()
        return COCOeval(truth, found, "bbox")


def stats(data: dict, draw: random.Random) -> list[float]:
    """AP, AP50, AP75 and that of small, medium and large objects; -1 for none."""
    judge = evaluation(data, draw)
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats[:6]]


def main() -> None:
    draw = random.Random(2017)
    sets = [random_set(draw, *shape) for shape in [(40, 3, True), (60, 8, False), (25, 1, True), (12, 20, False)]]
    for data in sets:
        data["stats"] = stats(data, draw)
        print(data["stats"])
    file = pathlib.Path(__file__).parent / "golden" / "average_precision.json"
    file.write_text(json.dumps(sets, separators=(",", ":")) + "\n")
    print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
