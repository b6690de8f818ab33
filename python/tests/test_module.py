"""The module with the embedded demo."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import textwrap
import threading
import time
import unittest
import warnings
from pathlib import Path

import qdrop

SHORT = {"compare": [], "calibration": {"images": 64, "observe": 32}, "evaluation.images": 200}


def quantize(**options):
    options = {"iters": 2, "progress": False, "set": SHORT, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return qdrop.quantize("demo", **options)


def python(code, **options):
    """Run a program."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], text=True, timeout=120, **options)


class Results(unittest.TestCase):
    def test_a_result_is_reported_measured_and_loaded(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result"
            result = quantize(out=out, set={**SHORT, "compare": [{"name": "nearest", "set": {"reconstruction": "none"}}]})
            self.assertEqual(result.path, out)
            report = result.report()
            self.assertEqual((report.summary["bits"], report.summary["quantized"]["images"]), ("w2a4", 200))
            names = [line.split()[0] for line in str(report).splitlines()[1:5]]
            self.assertEqual(names, ["float", "nearest", "qdrop", "recipe"])
            top1 = report.summary["quantized"]["top1"]
            self.assertIn(f" {top1:.2f} (", report.text)
            self.assertEqual(result.evaluate(progress=False), report.summary["quantized"])
            self.assertEqual(repr(result).split(",")[:2], ["<qdrop.Quantized 'demo'", " w2a4"])
            again = qdrop.load(out)
            self.assertEqual((again.report().text, again.report().summary), (report.text, report.summary))
            self.assertFalse(out.with_name("result.inputs").exists())

    def test_a_temporary_result_goes_with_its_object(self):
        result = quantize()
        path = result.path
        self.assertTrue((path / "summary.json").is_file())
        del result
        self.assertFalse(path.parent.exists())

    def test_the_seed_decides(self):
        one, same, other = (quantize(seed=seed) for seed in (1, 1, 2))
        read = lambda result: (result.path / "model.safetensors").read_bytes()
        self.assertEqual(read(one), read(same))
        self.assertNotEqual(read(one), read(other))

    def test_the_recipe_of_an_architecture_is_the_best_one(self):
        with self.assertRaisesRegex(qdrop.InputError, "^loading the float network: model.weights: no checkpoint is given"):
            qdrop.quantize("resnet18", progress=False)
        with self.assertRaisesRegex(qdrop.InputError, "^bits: there is no recipe for w5a5 of resnet18; known: w2a2, w2a4, w3a3"):
            qdrop.quantize("resnet18", bits="w5a5")
        with self.assertRaisesRegex(qdrop.InputError, "--preset: a preset is for a network without a recipe"):
            qdrop.quantize("demo", preset="fast")
        self.assertEqual(quantize(bits="w3a4").report().summary["bits"], "w3a4")


class Exports(unittest.TestCase):
    def test_files_are_written_and_not_replaced(self):
        result = quantize()
        with tempfile.TemporaryDirectory() as folder:
            fast, exact = (Path(folder) / name for name in ("fast.onnx", "exact.onnx"))
            with self.assertWarnsRegex(UserWarning, "layers are computed in floating point: .* 'conv1'"):
                self.assertEqual(result.export(fast), fast)
            self.assertEqual(result.export(str(exact), exact=True), exact)
            self.assertEqual(fast.read_bytes()[:1], b"\x08")
            self.assertNotEqual(fast.read_bytes(), exact.read_bytes())
            with self.assertRaisesRegex(qdrop.InputError, "fast.onnx: exists already; remove it"):
                result.export(fast)
            with self.assertRaisesRegex(qdrop.InputError, "unknown exporter 'onnxx', did you mean 'onnx'"):
                result.export(Path(folder) / "other", format="onnxx")
            packed = qdrop.load(result.export(Path(folder) / "packed.safetensors", format="packed"))
            self.assertEqual(packed.report().summary, result.report().summary)
            self.assertEqual(packed.evaluate(progress=False), result.evaluate(progress=False))
            with self.assertRaisesRegex(qdrop.InputError, "exact"):
                result.export(Path(folder) / "float.onnx", format="onnx-float", exact=True)


class Errors(unittest.TestCase):
    def test_texts_are_those_of_the_program(self):
        cases = [
            (qdrop.InputError, ValueError, {"set": {"quant.weight.bits": 0}}),
            (qdrop.InputError, ValueError, {"set": {"quant.weight.observer": "mze"}}),
            (qdrop.DeviceError, RuntimeError, {"device": "tpu"}),
            (qdrop.FileError, OSError, {"weights": "/nowhere.pth"}),
        ]
        for kind, builtin, options in cases:
            with self.assertRaises(kind) as raised:
                quantize(**options)
            self.assertIsInstance(raised.exception, (qdrop.Error, builtin))
            arguments = [f"--set={key}={value}" for key, value in options.pop("set", {}).items()]
            arguments += [f"--{key}={value}" for key, value in options.items()]
            program = str(Path(sys.executable).with_name("qdrop"))
            done = subprocess.run([program, "quantize", "demo", *arguments], capture_output=True, text=True)
            self.assertEqual(done.stderr.splitlines()[-1], f"error: {raised.exception}")

    def test_what_is_no_result_is_said(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(qdrop.InputError, "holds no saved result: summary.json is missing"):
                qdrop.load(folder)
            with self.assertRaisesRegex(qdrop.InputError, "none does not exist"):
                qdrop.load(Path(folder) / "none")
            with self.assertRaisesRegex(qdrop.InputError, "is neither the folder of a finished run nor a packed file"):
                qdrop.load(__file__)
            Path(folder, "mine").write_text("")
            with self.assertRaisesRegex(qdrop.InputError, r"is not empty \(it holds 'mine'\)"):
                quantize(out=folder)

    def test_arguments_that_cannot_be(self):
        for options, text in [
            ({"model": 3}, "^model: a path, a name, the bytes of an ONNX file or a torch.nn.Module is needed, not int"),
            ({"images": "/nowhere"}, "^images: /nowhere does not exist"),
            ({"images": __file__}, "test_module.py is neither a folder nor a .npy file"),
            ({"images": [[1, 2]]}, "^images: an array or a path is needed, not list"),
            ({"labels": [1]}, "^labels is given, but images is not"),
            ({"set": {"seed": object()}}, "^seed: <object object at .*> cannot be written in a recipe"),
        ]:
            with self.assertRaisesRegex(qdrop.InputError, text):
                qdrop.quantize(**{"model": "demo", "progress": False, **options})
        with self.assertRaisesRegex(TypeError, "iters"):
            qdrop.quantize("demo", iters="many", progress=False)


class Running(unittest.TestCase):
    CODE = """
        import qdrop, sys, time
        print("begins", flush=True)
        try:
            qdrop.quantize("demo", iters=3000, progress=False, set={"compare": []})
        finally:
            print(time.time(), flush=True)
    """

    def test_ctrl_c_stops_it_at_once(self):
        # In the calibration, and in the steps of a unit.
        for delay in (0.3, 1.0, 3.0):
            running = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(self.CODE)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            self.addCleanup(running.kill)
            self.assertEqual(running.stdout.readline(), "begins\n")
            time.sleep(delay)
            asked = time.time()
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=30)
            self.assertLess(float(out) - asked, 0.8)
            self.assertEqual(err.splitlines()[-1], "KeyboardInterrupt")
            self.assertEqual(running.returncode, -signal.SIGINT)

    def test_other_threads_run_meanwhile(self):
        ticks, done = [], threading.Event()

        def tick():
            while not done.wait(0.01):
                ticks.append(time.monotonic())

        thread = threading.Thread(target=tick)
        thread.start()
        try:
            quantize()
        finally:
            done.set()
            thread.join()
        self.assertGreater(len(ticks), 10)
        self.assertLess(max(b - a for a, b in zip(ticks, ticks[1:])), 0.5)

    def test_warnings_are_warnings_and_can_stop_it(self):
        # 1,024 images are there.
        more = {"set": {**SHORT, "calibration": {"images": 2000, "observe": 32}}}
        with self.assertWarnsRegex(UserWarning, "the calibration set has 1024 images, the recipe asks for 2000") as seen:
            qdrop.quantize("demo", iters=1, progress=False, **more)
        self.assertEqual(Path(seen.filename), Path(__file__))
        with self.assertRaisesRegex(UserWarning, "the calibration set has 1024 images"):
            quantize(**more)

    def test_progress_is_shown_on_a_terminal_alone(self):
        code = f"import qdrop; qdrop.quantize('demo', iters=1, set={SHORT!r})"
        self.assertEqual(python(code, stderr=subprocess.PIPE).stderr, "")
        without_tqdm = "import sys; sys.modules['tqdm'] = None;"
        try:
            import tqdm  # noqa: F401

            programs = [without_tqdm, ""]
        except ImportError:
            print("SKIPPED: bars of tqdm, which is not installed", file=sys.stderr)
            programs = [without_tqdm]
        for before in programs:
            ours, theirs = pty.openpty()
            # 24 rows and 100 columns.
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
            running = subprocess.Popen([sys.executable, "-c", before + code], stderr=theirs)
            os.close(theirs)
            text = b""
            try:
                while part := os.read(ours, 4096):
                    text += part
            except OSError:
                pass  # The other end was closed.
            os.close(ours)
            self.assertEqual(running.wait(), 0)
            self.assertIn(b"unit 10/10 fc: reconstruction", text)
            self.assertEqual(re.search(rb"evaluating float: +\d+%\|", text) is not None, before == "", text)

    def test_types_and_documentation_are_there(self):
        folder = Path(qdrop.__file__).parent
        self.assertTrue((folder / "py.typed").is_file() and (folder / "_native.pyi").is_file())
        self.assertTrue(re.match(r"0\.\d+\.\d+ \(", qdrop.__version__), qdrop.__version__)
        for name in qdrop.__all__:
            self.assertTrue(getattr(qdrop, name).__doc__, name)


if __name__ == "__main__":
    unittest.main()
