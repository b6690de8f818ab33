#!/usr/bin/env python3
"""Prints the seconds and the first six values of pycocotools' evaluation: coco_eval.py ANNOTATIONS DETECTIONS."""
import contextlib
import io
import json
import sys
import time

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(sys.argv[1])
    judge = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
    start = time.perf_counter()
    judge.evaluate()
    judge.accumulate()
    seconds = time.perf_counter() - start
    judge.summarize()
print(json.dumps({"seconds": seconds, "stats": [float(v) for v in judge.stats[:6]]}))
