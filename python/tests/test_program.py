"""The program of the wheel: results, exit status and signals are those of the program of the workspace."""

import json
import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("qdrop"))
SHORT = ["--iters", "2", "--set", "compare=[]", "--set", "calibration={images: 64, observe: 32}", "--set", "evaluation.images=200"]


def run(*arguments, **options):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120, **options)


class Results(unittest.TestCase):
    def test_a_network_is_quantized(self):
        done = run("--json", "quantize", "demo", *SHORT)
        self.assertEqual(done.returncode, 0, done.stderr)
        summary = json.loads(done.stdout)
        self.assertEqual((summary["bits"], summary["float"]["images"]), ("w2a4", 200))
        self.assertIn("unit 10/10 fc: reconstruction", done.stderr)
        plain = run("quantize", "demo", *SHORT)
        self.assertTrue(plain.stdout.startswith("         bits "), plain.stdout)
        self.assertIn(f"{summary['quantized']['top1']:.2f}", plain.stdout)

    def test_errors_have_their_texts_and_exit_status(self):
        wrong = run("quantize", "demo", "--set", "quant.weight.bits=0")
        self.assertEqual((wrong.returncode, wrong.stdout), (1, ""))
        self.assertIn("quant.weight.bits: 0 bits are not supported; use 1 to 16\n", wrong.stderr)
        self.assertTrue(wrong.stderr.startswith("error: reading the recipe: "), wrong.stderr)
        usage = run("quantise")
        self.assertEqual(usage.returncode, 2)
        self.assertIn("Usage: qdrop [OPTIONS] <COMMAND>", usage.stderr)
        version = run("--version")
        self.assertTrue(version.returncode == 0 and version.stdout.startswith("qdrop "), version)
        module = subprocess.run([sys.executable, "-m", "qdrop", "--version"], capture_output=True, text=True)
        self.assertEqual(module.stdout, version.stdout)

    def test_nobody_reads_the_result(self):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([PROGRAM, "recipes"], stdout=write, stderr=subprocess.PIPE)
        os.close(write)
        self.assertEqual((done.returncode, done.stderr), (141, b""))


class Signals(unittest.TestCase):
    def start(self, **options):
        """Start a run, and wait until it computes."""
        arguments = [PROGRAM, "quantize", "demo", "--iters", "3000", "--set", "compare=[]"]
        running = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        self.addCleanup(running.kill)
        for line in running.stderr:
            if line.startswith("memory:"):
                return running
        self.fail("the run ended")

    def test_a_request_to_stop_ends_it(self):
        for request in (signal.SIGINT, signal.SIGTERM):
            running = self.start()
            start = time.monotonic()
            running.send_signal(request)
            out, err = running.communicate(timeout=10)
            self.assertLess(time.monotonic() - start, 1)
            self.assertEqual((running.returncode, out), (130, ""), err)
            self.assertEqual(err.splitlines()[-1], "error: stopped on request")

    def test_a_signal_that_was_ignored_stays_ignored(self):
        running = self.start(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        running.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(running.poll())
        running.terminate()
        running.communicate(timeout=10)


if __name__ == "__main__":
    unittest.main()
