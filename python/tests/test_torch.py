"""Modules of PyTorch: their export, and what is left of their state. Needs torch and onnxruntime."""

import importlib.util
import sys
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock

try:
    import onnxruntime
    import torch
except ImportError as missing:
    print(f"SKIPPED: modules of PyTorch: {missing}", file=sys.stderr)
    sys.exit(0)
import numpy as np

import qdrop
from qdrop import _model
from qdrop._inputs import Inputs


class Small(torch.nn.Module):
    """A network for images of any number of channels, whose parts are in different modes."""

    def __init__(self, channels=3):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 8, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        )
        self.head = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 5))

    def forward(self, x):
        return self.head(self.body(x))


def exported(module, images, image_size=None):
    """Return the shape of the input of the exported file, and a function that runs it."""
    inputs = Inputs(None)
    file = _model.onnx_file(module, images, image_size, inputs)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.get_inputs()[0].shape, lambda images: session.run(None, {"input": images})[0]


class Export(unittest.TestCase):
    def check(self):
        torch.manual_seed(3)
        module = Small()
        module.body[1].running_mean += 0.3
        # A part in evaluation mode, the rest in training mode.
        module.train()
        module.body[1].eval()
        modes = [part.training for part in module.modules()]
        images = np.random.default_rng(1).normal(size=(7, 3, 9, 11)).astype(np.float32)
        shape, run = exported(module, images)
        self.assertEqual(shape[1:], [3, 9, 11])
        self.assertEqual([part.training for part in module.modules()], modes)
        with torch.no_grad():
            want = module.eval()(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(run(images), want, rtol=1e-5, atol=1e-6)

    @unittest.skipUnless(importlib.util.find_spec("onnxscript"), "SKIPPED: the newer exporter needs onnxscript")
    def test_logits_are_those_of_the_module_in_evaluation_mode(self):
        self.check()

    def test_the_older_exporter_does_without_onnxscript(self):
        with mock.patch("importlib.util.find_spec", return_value=None):
            self.check()

    def test_the_size_comes_from_the_images_or_is_given(self):
        pixels = np.zeros((2, 9, 11, 3), np.uint8)
        self.assertEqual(exported(Small(), pixels)[0][1:], [3, 9, 11])
        self.assertEqual(exported(Small(1), pixels[..., 0])[0][1:], [1, 9, 11])
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(exported(Small(), folder, 16)[0][1:], [3, 16, 16])
            self.assertEqual(exported(Small(), folder, (16, 20))[0][1:], [3, 16, 20])
            np.save(Path(folder) / "images.npy", pixels)
            self.assertEqual(exported(Small(), Path(folder) / "images.npy")[0][1:], [3, 9, 11])
            with self.assertRaisesRegex(qdrop.InputError, "^image_size: is needed to export a module whose images are no array"):
                qdrop.quantize(Small(), folder, progress=False)

    def test_a_module_that_cannot_be_exported_is_named(self):
        module = Small()
        with self.assertRaisesRegex(qdrop.InputError, r"^model: torch.onnx.export cannot export .* images of \(4, 9, 11\): "):
            exported(module, np.zeros((2, 4, 9, 11), np.float32))
        self.assertTrue(all(part.training for part in module.modules()))


class Quantize(unittest.TestCase):
    def test_a_module_its_file_and_its_bytes_are_one_network(self):
        torch.manual_seed(5)
        module = Small().eval()
        pixels = np.random.default_rng(2).integers(0, 256, (96, 12, 16, 3), dtype=np.uint8)
        mean, std = np.float32([0.4, 0.5, 0.6]), np.float32([0.3, 0.2, 0.1])
        floats = ((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
        with torch.no_grad():
            labels = module(torch.from_numpy(floats)).argmax(1).numpy()
        short = {"calibration": {"images": 64, "observe": 32, "refine": 8}}
        options = {"labels": labels, "progress": False, "iters": 3, "set": short}
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # Calibration and evaluation use the same images.
            warnings.simplefilter("ignore")
            out = Path(folder) / "result"
            of_module = qdrop.quantize(module, pixels, "w8a8", mean=mean, std=std, out=out, **options)
            summary = of_module.report().summary
            # The float network is the module.
            self.assertEqual((summary["float"]["top1"], summary["bits"], summary["recipe"]), (100, "w8a8", "Small_w8a8"))
            self.assertGreater(summary["quantized"]["top1"], 80)
            file = Path(folder) / "result.inputs" / "Small.onnx"
            copy = Path(folder) / "network.onnx"
            self.assertEqual(sorted(path.name for path in file.parent.iterdir()), ["Small.onnx", "images.npy", "labels.npy"])
            copy.write_bytes(file.read_bytes())
            for model in (copy, str(copy), file.read_bytes()):
                other = qdrop.quantize(model, floats, "w8a8", **options)
                self.assertEqual(other.report().summary["quantized"], summary["quantized"])
            # What is exported computes the same, in ONNX Runtime.
            exported = of_module.export(Path(folder) / "exported.onnx", exact=True)
            session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
            logits = session.run(None, {session.get_inputs()[0].name: floats})[0]
            self.assertEqual(round(100 * np.mean(logits.argmax(1) == labels), 2), round(summary["quantized"]["top1"], 2))
            # Without labels, of a network that is saved.
            again = qdrop.load(out).evaluate(pixels, progress=False)
            self.assertEqual(again["kl"], summary["quantized"]["kl"])


if __name__ == "__main__":
    unittest.main()
