"""What was imported is no garbage, and is not searched for any again and again.

Libraries have all garbage collected at every start of a training, and so does this package for every model it lets go.
With torch and transformers in memory one such search takes half a second, nearly all of it in imported objects.
"""

from __future__ import annotations

import gc

_left_alone = False


def leave_imports_alone() -> None:
    """Take what is in memory now out of the search, once in a process: after imports and before any model is loaded.

    What is taken out is still freed when nothing refers to it, unless it refers to itself.
    """
    global _left_alone
    if not _left_alone:
        _left_alone = True
        gc.collect()
        gc.freeze()
