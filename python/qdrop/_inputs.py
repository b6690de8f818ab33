"""Files for what callers give in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Optional, Union

from . import _native


class Inputs:
    """The folders of a run: the one with its result, and one for the networks and arrays that were given in memory.

    Without `out` both are temporary, and go with this object or the process. With it, the second is ``OUT.inputs`` beside the
    first, so that the run can be resumed and measured later; it is made if it is needed.
    """

    def __init__(self, out: Union[str, os.PathLike[str], None]) -> None:
        self._end: Optional[weakref.finalize[..., Inputs]] = None
        if out is None:
            folder = Path(tempfile.mkdtemp(prefix="qdrop-"))
            self._end = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self.result, self._folder = folder / "result", folder
        else:
            self.result = Path(out).absolute()
            # Before the inputs of another result are replaced.
            _native.check_out(str(self.result))
            self._folder = self.result.with_name(self.result.name + ".inputs")

    def file(self, name: str) -> Path:
        """Return the path of an input."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / name

    def remove(self) -> None:
        """Remove what is temporary now."""
        if self._end is not None:
            self._end()
