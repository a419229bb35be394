"""A model by folder or Hub id, as a folder."""

from __future__ import annotations

from pathlib import Path

from ..errors import EnvironmentFailure, RequestError


def fetch(name: str, revision: str | None, key: str) -> Path:
    """A local folder as it is, or a Hub model downloaded to the cache.

    Args:
        name: Folder or Hub id.
        revision: Branch, tag or commit on the Hub.
        key: What messages call it.

    Raises:
        RequestError: Neither a folder with a saved model nor a model on the Hub that can be read.
        EnvironmentFailure: The Hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").exists() and not any(folder.glob("*.gguf")):
            raise RequestError(f"{key}: the folder {name} holds no config.json, so it is not a saved model")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError:
        raise RequestError(f"{key}: {name!r} is neither a folder here nor a Hub id") from None
    except RepositoryNotFoundError:
        raise RequestError(
            f"{key}: {name!r} is neither a folder here nor a model on the Hub that you can read: check the name, or "
            "log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise RequestError(f"{key}: {name!r} on the Hub has no revision {revision!r}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EnvironmentFailure(
            f"{key}: {name!r} is not a folder here and the Hub did not give it: {reason}"
        ) from None
