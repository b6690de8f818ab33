#!/usr/bin/env python3
"""Writes golden/jpeg/*.jpg, one for each layout of a JPEG file, and next to each what Pillow makes of it (*.png).

    apt install libjpeg-turbo-progs && pip install pillow numpy && python3 tests/jpeg_golden.py
"""
import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image, __version__, features

# Neither is a multiple of any block size.
WIDTH, HEIGHT = 61, 43
ONE_SCAN_PER_COMPONENT = "0;\n1;\n2;\n"
# Each layout: options of cjpeg, and a scan script.
LAYOUTS = {
    "baseline_444": (["-sample", "1x1"], None),
    "baseline_422": (["-sample", "2x1"], None),
    "baseline_420": (["-sample", "2x2"], None),
    "baseline_440": (["-sample", "1x2"], None),
    "baseline_411": (["-sample", "4x1"], None),
    "baseline_441": (["-sample", "1x4"], None),
    "baseline_410": (["-sample", "4x2"], None),
    "luma_below_chroma_wide": (["-sample", "1x1,2x1,2x1"], None),
    "luma_below_chroma_high": (["-sample", "1x1,1x2,1x2"], None),
    "luma_below_chroma_both": (["-sample", "1x1,2x2,2x2"], None),
    "chroma_unlike": (["-sample", "2x2,2x1,1x2"], None),
    "luma_crossed_with_chroma": (["-sample", "2x1,1x2,1x2"], None),
    "non_interleaved_444": (["-sample", "1x1"], ONE_SCAN_PER_COMPONENT),
    "non_interleaved_422": (["-sample", "2x1"], ONE_SCAN_PER_COMPONENT),
    "non_interleaved_420": (["-sample", "2x2"], ONE_SCAN_PER_COMPONENT),
    "non_interleaved_luma_below": (["-sample", "1x1,2x2,2x2"], ONE_SCAN_PER_COMPONENT),
    "partly_interleaved_420": (["-sample", "2x2"], "0;\n1 2;\n"),
    "progressive_444": (["-sample", "1x1", "-progressive"], None),
    "progressive_420": (["-sample", "2x2", "-progressive"], None),
    "progressive_luma_below": (["-sample", "1x1,2x1,2x1", "-progressive"], None),
    "progressive_restart": (["-sample", "2x2", "-progressive", "-restart", "3B"], None),
    "restart_444": (["-sample", "1x1", "-restart", "5B"], None),
    "restart_420": (["-sample", "2x2", "-restart", "1"], None),
    "non_interleaved_restart": (["-sample", "2x2", "-restart", "7B"], ONE_SCAN_PER_COMPONENT),
    "arithmetic_444": (["-sample", "1x1", "-arithmetic"], None),
    "arithmetic_420": (["-sample", "2x2", "-arithmetic"], None),
    "arithmetic_progressive": (["-sample", "2x2", "-arithmetic", "-progressive"], None),
    "arithmetic_non_interleaved": (["-sample", "2x2", "-arithmetic"], ONE_SCAN_PER_COMPONENT),
    "arithmetic_restart": (["-sample", "2x2", "-arithmetic", "-restart", "4B"], None),
    "rgb": (["-rgb"], None),
    "grey": (["-grayscale"], None),
    "grey_sampled": (["-grayscale", "-sample", "2x2"], None),
    "grey_progressive": (["-grayscale", "-progressive"], None),
    "grey_arithmetic": (["-grayscale", "-arithmetic"], None),
    "optimized_tables": (["-optimize"], None),
}


def picture() -> Image.Image:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    waves = [np.sin(x * 0.21 + y * 0.05), np.sin(x * y * 0.006), np.sign(np.sin(x * 0.4) * np.sin(y * 0.3))]
    return Image.fromarray(np.stack([127.5 + 120 * w for w in waves], axis=-1).astype(np.uint8))


def main() -> None:
    folder = pathlib.Path(__file__).parent / "golden/jpeg"
    folder.mkdir(exist_ok=True)
    image = picture()
    with tempfile.TemporaryDirectory() as temporary:
        source, scans = pathlib.Path(temporary, "in.ppm"), pathlib.Path(temporary, "scans.txt")
        image.save(source)
        for name, (options, script) in LAYOUTS.items():
            if script:
                scans.write_text(script)
                options = [*options, "-scans", str(scans)]
            data = subprocess.run(["cjpeg", "-quality", "85", *options, str(source)], check=True, capture_output=True).stdout
            (folder / f"{name}.jpg").write_bytes(data)
    cmyk = Image.merge("CMYK", [*image.split(), image.convert("L").point(lambda v: v // 2)])
    for name, sampling in (("cmyk", 0), ("cmyk_progressive", 0)):
        # Pillow writes four components as CMYK, and the inverted values of Adobe's programs.
        cmyk.save(folder / f"{name}.jpg", quality=85, progressive=name.endswith("progressive"), subsampling=sampling)
    # The same components, called YCCK: transform 2 of the Adobe marker.
    data = bytearray((folder / "cmyk.jpg").read_bytes())
    data[data.index(b"Adobe") + 11] = 2
    (folder / "ycck.jpg").write_bytes(data)
    for file in sorted(folder.glob("*.jpg")):
        decoded = Image.open(file).convert("RGB")
        decoded.save(file.with_suffix(".png"), optimize=True)
        assert decoded.size == image.size
    print(f"Pillow {__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}: {len(list(folder.glob('*.jpg')))} files in {folder}")


main()
