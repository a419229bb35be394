"""One process of a launch whose second process is gone after a few steps of sharded jobs, as if it was killed:

python losing_process.py STEPS WORDS OF THE COMMAND LINE ...
"""

from __future__ import annotations

import os
import sys

from hf_unlearn.attacks.sharded import ShardedRetraining
from hf_unlearn.cli.main import main
from hf_unlearn.runtime.processes import rank


def lose_the_second_after(steps: int) -> None:
    """It ends without a word before its next step."""
    add, made = ShardedRetraining._add_gradients, 0

    def add_or_end(self, rows):
        nonlocal made
        made += 1
        if made > steps and rank() == 1:
            os._exit(9)
        add(self, rows)

    ShardedRetraining._add_gradients = add_or_end


if __name__ == "__main__":
    lose_the_second_after(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
