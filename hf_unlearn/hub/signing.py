"""Signing a published folder: who vouches for its report."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, RequestError, first_line
from ..verification.report_file import REPORT_FILE
from .check import check_folder
from .files import SIGNATURE_FILE
from .signatures import hashing_of, not_over, signing_library

PASSWORD_VARIABLE = "HF_UNLEARN_KEY_PASSWORD"
_KEY_HELP = "make one with  openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


@dataclass(frozen=True)
class SigstoreLogin:
    """Sign as whoever this process can show to be: the CI job it runs in, or who logs in with a browser.

    Attributes:
        ambient: Whether to take the identity of the surrounding CI job where there is one.
    """

    ambient: bool = True


SigningKey = str | Path | SigstoreLogin


def sign_folder(folder: str | Path, key: SigningKey, password: str | None = None) -> Path:
    """Check a published folder and sign its report; an older signature is replaced.

    Args:
        folder: A published folder.
        key: File of a private key on the curve P-256, P-384 or P-521 as PEM; or a Sigstore login.
        password: Of the key. By default what the environment variable ``HF_UNLEARN_KEY_PASSWORD`` holds.

    Returns:
        The signature file.

    Raises:
        RequestError: The folder is not, byte for byte, what its report says, or the key cannot be used.
        MissingExtraError: ``model-signing`` is not installed.
        EnvironmentFailure: The signature cannot be written, or Sigstore cannot be reached.
    """
    problems = [problem for problem in check_folder(folder).problems if not problem.startswith(f"{SIGNATURE_FILE}:")]
    if problems:
        raise RequestError(f"{folder} is not signed, for it is not what its report says: {problems[0]}")
    return sign_report(Path(folder), key, password)


def sign_report(folder: Path, key: SigningKey, password: str | None = None) -> Path:
    """:func:`sign_folder` for a folder that was just written and needs no check."""
    config = _signer(key, password)
    target = folder / SIGNATURE_FILE
    work = folder / f".{SIGNATURE_FILE}.partial"
    try:
        data = (folder / REPORT_FILE).read_bytes()
        with tempfile.TemporaryDirectory() as place:
            report = Path(place, REPORT_FILE)
            report.write_bytes(data)
            _run_signer(config, report, work, key)
        wrong = not_over(data, work.read_bytes())
        if wrong:
            raise EnvironmentFailure(f"the signature that was made {wrong}")
        work.replace(target)
    except OSError as error:
        raise EnvironmentFailure(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        work.unlink(missing_ok=True)
    return target


def _signer(key: SigningKey, password: str | None) -> Any:
    library = signing_library()
    config = library.signing.Config().set_hashing_config(hashing_of(library))
    if isinstance(key, SigstoreLogin):
        try:
            return config.use_sigstore_signer(use_ambient_credentials=key.ambient)
        except Exception as error:  # whatever the network, the roots of trust or the login do
            raise EnvironmentFailure(f"Sigstore cannot be used from here: {first_line(error)}") from error
    if password is None:
        password = os.environ.get(PASSWORD_VARIABLE)
    secret = None if password is None else password.encode()
    try:
        return config.use_elliptic_key_signer(private_key=key, password=secret)
    except OSError as error:
        raise RequestError(f"the private key {key} cannot be read ({error.strerror}): {_KEY_HELP}") from error
    except Exception as error:  # of the library's libraries there are many kinds
        why = "it is encrypted and no password was given" if "encrypted" in str(error) and not secret else ""
        why = why or ("the password does not open it" if "Incorrect password" in str(error) else "")
        if why:
            raise RequestError(
                f"the private key {key} cannot be used: {why}; set the environment variable {PASSWORD_VARIABLE}"
            ) from error
        raise RequestError(f"{key} is not a private key on the curve P-256, P-384 or P-521: {_KEY_HELP}") from error


def _run_signer(config: Any, report: Path, target: Path, key: SigningKey) -> None:
    try:
        config.sign(report, target)
    except OSError:
        raise
    except Exception as error:
        raise EnvironmentFailure(f"signing with {key} did not work: {first_line(error)}") from error
