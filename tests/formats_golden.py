#!/usr/bin/env python3
"""Writes golden/formats/*, images of the formats other than JPEG, and next to each what Pillow makes of it (*.rgb.png).

    pip install pillow numpy && python3 tests/formats_golden.py
"""
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, __version__

WIDTH, HEIGHT = 29, 19
y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
WAVES = [0.5 + 0.47 * w for w in (np.sin(x * 0.3 + y * 0.1), np.sin(x * y * 0.02), np.cos(y * 0.5))]
RGB = np.stack([255 * w for w in WAVES], axis=-1).astype(np.uint8)
ALPHA = np.linspace(0, 255, WIDTH * HEIGHT).astype(np.uint8).reshape(HEIGHT, WIDTH)
DEEP = np.stack([65535 * w for w in WAVES], axis=-1).astype(np.uint16)


def png(path: pathlib.Path, rows: np.ndarray, bits: int, color: int, transparent: bytes = b"") -> None:
    """Rows of samples, already packed into bytes."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color, 0, 0, 0)
    key = chunk(b"tRNS", transparent) if transparent else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b""))


def packed(bits: int) -> np.ndarray:
    """The red channel with a few bits for each pixel, packed into bytes."""
    values = RGB[..., 0] >> (8 - bits)
    spread = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(spread.reshape(HEIGHT, -1), axis=1)


def bmp16(path: pathlib.Path) -> None:
    """Five, six and five bits for a pixel, lowest row first."""
    red, green, blue = (RGB[..., i].astype(np.uint16) for i in range(3))
    pixels = (red >> 3) << 11 | (green >> 2) << 5 | blue >> 3
    rows = np.pad(pixels, ((0, 0), (0, WIDTH % 2)))[::-1].astype("<u2").tobytes()
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 3, len(rows), 2835, 2835, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 14 + 52 + len(rows), 0, 0, 14 + 52) + header + masks + rows)


def main() -> None:
    folder = pathlib.Path(__file__).parent / "golden/formats"
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    big = DEEP.astype(">u2")
    alpha16 = (ALPHA.astype(np.uint16) * 257).astype(">u2")
    png(folder / "grey16.png", big[..., 0], 16, 0)
    # Small values too, which saturation leaves apart.
    png(folder / "grey16_dark.png", (big[..., 0] // 300).astype(">u2"), 16, 0)
    png(folder / "rgb16.png", big.reshape(HEIGHT, -1), 16, 2)
    png(folder / "grey_alpha16.png", np.stack([big[..., 0], alpha16], axis=-1).astype(">u2").reshape(HEIGHT, -1), 16, 4)
    png(folder / "rgba16.png", np.concatenate([big, alpha16[..., None]], axis=-1).astype(">u2").reshape(HEIGHT, -1), 16, 6)
    png(folder / "grey16_transparent.png", big[..., 0], 16, 0, struct.pack(">H", int(DEEP[3, 5, 0])))
    for bits in (1, 2, 4):
        png(folder / f"grey{bits}.png", packed(bits), bits, 0)
    image, grey = Image.fromarray(RGB), Image.fromarray(RGB[..., 0])
    rgba = Image.merge("RGBA", [*image.split(), Image.fromarray(ALPHA)])
    palette = image.quantize(30)
    image.save(folder / "rgb.png")
    rgba.save(folder / "rgba.png")
    grey.convert("LA").save(folder / "grey_alpha.png")
    palette.save(folder / "palette.png")
    palette.save(folder / "palette_transparent.png", transparency=3)
    image.save(folder / "rgb.bmp")
    palette.save(folder / "palette.bmp")
    grey.save(folder / "grey.bmp")
    grey.convert("1").save(folder / "bilevel.bmp")
    bmp16(folder / "rgb565.bmp")
    rgba.save(folder / "rgba.bmp")
    image.save(folder / "lossless.webp", lossless=True)
    image.save(folder / "lossy.webp", quality=80)
    rgba.save(folder / "alpha.webp", lossless=True)
    image.save(folder / "animated.webp", save_all=True, append_images=[image.rotate(180)], lossless=True)
    for name, compression in (("raw", None), ("lzw", "tiff_lzw"), ("deflate", "tiff_adobe_deflate"), ("packbits", "packbits")):
        image.save(folder / f"{name}.tif", compression=compression)
    image.save(folder / "jpeg.tiff", compression="jpeg", quality=90)
    grey.save(folder / "grey.tiff")
    rgba.save(folder / "rgba.tiff")
    Image.fromarray(DEEP[..., 0]).save(folder / "grey16.tiff")
    image.convert("CMYK").save(folder / "cmyk.tiff")
    palette.save(folder / "palette.tiff")
    grey.convert("1").save(folder / "bilevel.tiff")
    image.save(folder / "turned.tiff", tiffinfo={274: 6})
    image.save(folder / "rgb.ppm")
    grey.save(folder / "grey.pgm")
    grey.convert("1").save(folder / "bilevel.pbm")
    size = f"{WIDTH} {HEIGHT}"
    (folder / "maxval100.pgm").write_bytes(f"P5\n{size}\n100\n".encode() + (100 * WAVES[0]).astype(np.uint8).tobytes())
    (folder / "maxval1000.ppm").write_bytes(
        f"P6\n# a comment\n{size} 1000\n".encode() + (1000 * np.stack(WAVES, axis=-1)).astype(">u2").tobytes())
    (folder / "grey16.pgm").write_bytes(f"P5 {size} 65535\n".encode() + big[..., 0].tobytes())
    (folder / "plain.ppm").write_text(f"P3\n{size}\n255\n" + "\n".join(" ".join(map(str, p)) for p in RGB.reshape(-1, 3)) + "\n")
    image.save(folder / "colors.gif")
    palette.save(folder / "transparent.gif", transparency=3)
    image.save(folder / "animated.gif", save_all=True, append_images=[image.rotate(180)])
    for file in sorted(folder.iterdir()):
        pixels = np.asarray(Image.open(file).convert("RGB"))
        Image.fromarray(pixels).save(file.with_name(file.name + ".rgb.png"), optimize=True)
    print(f"Pillow {__version__}: {folder}")


main()
