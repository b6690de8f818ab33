#!/usr/bin/env python3
"""Writes golden/photo.jpg and what Pillow makes of it: golden/photo_{decoded,resized,cropped}.png.

    pip install pillow numpy && python3 tests/resize_golden.py
"""
import pathlib

import numpy as np
from PIL import Image, __version__

WIDTH, HEIGHT, SHORTER = 150, 110, 64
CROP = (13, 7, 104, 88)


def main() -> None:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    waves = [np.sin(x * 0.21 + y * 0.05), np.sin(x * y * 0.004), np.sign(np.sin(x * 0.5) * np.sin(y * 0.4))]
    pixels = np.stack([127.5 + 120 * w for w in waves], axis=-1).astype(np.uint8)
    golden = pathlib.Path(__file__).parent / "golden"
    Image.fromarray(pixels).save(golden / "photo.jpg", quality=92)
    photo = Image.open(golden / "photo.jpg").convert("RGB")
    photo.save(golden / "photo_decoded.png")
    # torchvision's Resize: the shorter side exactly, the longer one rounded down.
    photo.resize((SHORTER * WIDTH // HEIGHT, SHORTER), Image.BILINEAR).save(golden / "photo_resized.png")
    left, top, width, height = CROP
    photo.crop((left, top, left + width, top + height)).resize((56, 56), Image.BILINEAR).save(golden / "photo_cropped.png")
    print(f"Pillow {__version__}: {golden}/photo*")


main()
