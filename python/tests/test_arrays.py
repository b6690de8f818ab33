"""Images in arrays of NumPy. The demo's images as arrays give the demo's results."""

import gzip
import tempfile
import unittest
import warnings
from pathlib import Path

import numpy as np

import qdrop

DEMO = Path(__file__).parents[2] / "cli" / "demo"
SHORT = {"compare": [], "calibration": {"images": 64, "observe": 32}, "evaluation.images": 200, "evaluation.against_float": True}
NORM = {"mean": 0.286, "std": 0.353}


def idx(name, header):
    data = gzip.decompress((DEMO / name).read_bytes())
    return np.frombuffer(data[header:], np.uint8)


IMAGES = idx("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
TEST = idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
LABELS = idx("t10k-labels-idx1-ubyte.gz", 8)


def quantize(*images, **options):
    return qdrop.quantize("demo", *images, progress=False, iters=2, **{"set": SHORT, **options})


def preprocessed(pixels):
    """Return what the reader of pixels computes, in the same order of operations."""
    mean, std = np.float32(NORM["mean"]), np.float32(NORM["std"])
    return ((pixels.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)


class Arrays(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.want = quantize().report().summary

    def same(self, result):
        measured = result.report().summary
        self.assertEqual((measured["float"], measured["quantized"]), (self.want["float"], self.want["quantized"]))

    def test_pixels_and_floats_are_the_same_images(self):
        options = {"eval_images": TEST, "labels": LABELS}
        self.same(quantize(IMAGES, **options, **NORM))
        # A view with other strides, of another type.
        floats = [preprocessed(pixels).astype(np.float64) for pixels in (IMAGES, TEST)]
        self.same(quantize(floats[0], eval_images=floats[1], labels=LABELS.astype(np.int32)))

    def test_files_are_read_where_they_are(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for name, array in [("images", IMAGES[..., 0]), ("test", TEST), ("labels", LABELS)]:
                np.save(folder / f"{name}.npy", array)
            files = {"eval_images": folder / "test.npy", "labels": str(folder / "labels.npy")}
            self.same(quantize(folder / "images.npy", **files, **NORM))

    def test_without_labels_networks_are_compared(self):
        result = quantize(IMAGES, eval_images=TEST, **NORM)
        measured = result.report().summary["quantized"]
        names = ["agreement", "agreement_standard_error", "kl", "kl_standard_error"]
        self.assertEqual(measured, {**{name: self.want["quantized"][name] for name in names}, "images": 200, "broken": 0})
        # With other images and labels; mean and standard deviation are those of the run.
        again = result.evaluate(TEST, LABELS, progress=False)
        self.assertEqual(again, self.want["quantized"])

    def test_the_same_images_for_both_are_noticed(self):
        with self.assertWarnsRegex(UserWarning, "calibration and evaluation use the same images, .*images.npy"):
            quantize(IMAGES[:200], **NORM)

    def test_inputs_are_kept_beside_the_result(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result"
            quantize(IMAGES, eval_images=TEST, labels=LABELS, out=out, **NORM)
            kept = sorted(path.name for path in (Path(folder) / "result.inputs").iterdir())
            self.assertEqual(kept, ["eval_images.npy", "images.npy", "labels.npy"])
            self.assertEqual(qdrop.load(out).evaluate(progress=False), self.want["quantized"])
            # Another run does not touch them.
            before = (Path(folder) / "result.inputs" / "images.npy").stat().st_mtime_ns
            with self.assertRaisesRegex(qdrop.InputError, "result: holds a run already|is not empty|holds"):
                quantize(IMAGES, out=out, **NORM)
            self.assertEqual((Path(folder) / "result.inputs" / "images.npy").stat().st_mtime_ns, before)

    def test_what_cannot_be_is_said(self):
        for images, options, text in [
            (IMAGES.astype(np.int32), {}, "^images: an array of uint8 or float32 is needed, not of int32"),
            (IMAGES, {}, "data.params.mean: is needed for uint8 images of 1 channels"),
            (IMAGES[:, 1:], NORM, r"has the shape \[1024, 27, 28, 1\], but the network takes images of 1 channels, 28 x 28"),
            (IMAGES, {**NORM, "labels": LABELS}, r"labels.npy: has the shape \[2500\], but there are 1024 images"),
            (IMAGES, {**NORM, "labels": LABELS.astype(float)}, "^labels: integers are needed, not an array of float64"),
            (IMAGES, {**NORM, "eval_images": TEST, "labels": LABELS + 5}, "holds label 1[0-9], but the classifier has the classes 0 to 9"),
            (preprocessed(IMAGES), NORM, "data.params.mean: is for images of uint8"),
        ]:
            with self.assertRaisesRegex(qdrop.InputError, text), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                quantize(images, **options)


if __name__ == "__main__":
    unittest.main()
