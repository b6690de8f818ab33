"""The program ``qdrop``."""

from __future__ import annotations

import signal
import sys

from ._native import main as run


def main() -> None:
    """Run the program with the arguments of this process, and exit with its status."""
    # The program handles signals by itself. One that was ignored when it began stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(run(sys.argv))
