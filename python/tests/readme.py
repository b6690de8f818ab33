"""Runs the lines of Python in the README, to the letter: those of the section "Python" that need nothing else."""

import os
import re
import tempfile
from pathlib import Path

text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
section = re.search(r"^## Python\n(.*?)^## ", text, re.S | re.M)
blocks = re.findall(r"^```python\n(.*?)^```", section.group(1), re.S | re.M) if section else []
if not blocks:
    raise SystemExit("the README has no section 'Python' with lines of Python")
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    exec(compile(blocks[0], "README.md", "exec"), {})
