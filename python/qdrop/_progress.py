"""What long work tells its caller."""

from __future__ import annotations

import sys
import warnings
from typing import Any, Optional

# Frames between a warning and the caller of the package: `warning`, the native function, and the function of the package.
_DEPTH = 3


class Progress:
    """Shows progress, and passes warnings on.

    With tqdm, progress is a bar on a terminal or in a notebook. Without it, lines are written on a terminal.

    Parameters
    ----------
    show
        Whether progress is shown. Warnings are always passed on.
    """

    def __init__(self, show: bool) -> None:
        terminal = show and sys.stderr is not None and sys.stderr.isatty()
        self._bars = _tqdm(terminal) if show else None
        self._lines = terminal
        self._bar: Optional[Any] = None

    def started(self, stage: str, total: int) -> None:
        """Work on `total` items begins."""
        self.finished()
        if self._bars is not None:
            self._bar = self._bars(total=total, desc=stage, leave=False, dynamic_ncols=True)
        elif self._lines:
            print(f"{stage}: {total}", file=sys.stderr)

    def advanced(self, done: int, note: str) -> None:
        """This number of items is done."""
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)

    def finished(self) -> None:
        """The current work is done, or was given up."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def line(self, text: str) -> None:
        """A part of the work was done."""
        if self._bars is not None:
            self._bars.write(text, file=sys.stderr)
        elif self._lines:
            print(text, file=sys.stderr)

    def warning(self, text: str) -> None:
        """The user should know this."""
        warnings.warn(text, UserWarning, stacklevel=_DEPTH)


def _tqdm(terminal: bool) -> Optional[Any]:
    """Return the class of tqdm that shows bars here; `None` if there is none."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    # A notebook shows bars too.
    return tqdm if terminal or "ipykernel" in sys.modules else None
