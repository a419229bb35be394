"""A Hub on this machine: the real ``huggingface_hub`` and ``transformers`` clients talk HTTP to it.

    with Hub() as hub:
        hub.create("owner/name", files={"config.json": b"{}"})   # as if somebody had published it
        done = run_client(hub, home, "from huggingface_hub import ...")
        hub.repos["owner/name"].files()                          # {"config.json": b"{}"}

What matters for tests:

``hub.url``, ``hub.environment(home)``
    Where it listens, and the environment of a client process (the client reads its address when it is imported).
``hub.write_token``, ``hub.read_token``, ``hub.expired_token``, ``hub.fine_token``
    Tokens of the user ``owner``, who may also write as the organization ``org``. ``hub.add_token(...)`` makes more.
``hub.fault(where, ...)``
    Something goes wrong at a request: see :class:`Fault`.
``hub.requests``, ``hub.count("POST .*/commit/")``
    What was asked, in order.
``hub.repos[id]``
    :class:`Repo`: ``files(revision)``, ``put({path: bytes or None})`` (a commit by somebody else), ``branches``,
    ``tags``, ``commits``, ``private``, ``gated``, ``log()``, ``instead`` (serve another commit than was asked for).
``hub.collections``
    :class:`Collection` by slug.
"""

from .client import run_client
from .faults import Fault
from .hub import Collection, Hub, Request, Token
from .repo import Commit, File, Repo

__all__ = ["Collection", "Commit", "Fault", "File", "Hub", "Repo", "Request", "Token", "run_client"]
