"""Commands in processes of their own that do not import everything anew: one process does, and forks.

    python forked.py

It reads the words of a command per line, as JSON, and answers with the id of the process that runs it, which leads a
group of its own. Its own only thread does nothing but this, so that forking it is safe.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any


def serve() -> None:
    """Import what every command needs, then fork for each line."""
    import bitsandbytes  # noqa: F401
    import transformers

    from hf_unlearn.cli.main import main
    from hf_unlearn.trainer import UnlearnTrainer

    assert transformers.LlamaForCausalLM and UnlearnTrainer
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that end
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            os._exit(main(json.loads(line)))
        print(process, flush=True)


class Forks:
    """The process that forks, from the outside. Use it as a context."""

    def __enter__(self) -> Forks:
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.communicate()

    def start(self, words: list[str]) -> int:
        """Run a command; returns its process id, which is its group too."""
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps(words) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


def alive(process: int) -> bool:
    """Whether a process has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    serve()
