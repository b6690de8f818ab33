"""``python -m qdrop`` is the program ``qdrop``."""

from ._program import main

main()
