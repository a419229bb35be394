"""The signature over a verification report: what it is, how it is made, and how it is checked.

The signature is that of OpenSSF Model Signing (`model-signing`_): a Sigstore bundle around an in-toto statement that
names the SHA-256 of the report's bytes. The report names the SHA-256 of every other file, so one signature covers all
of them. That project's tool can check it too::

    python -m model_signing verify key unlearning_report.json --signature unlearning_report.json.sig --public_key KEY

.. _model-signing: https://github.com/sigstore/model-transparency
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, MissingExtraError, RequestError, first_line
from ..runtime.files import partial_of, whole_file
from ..verification.report_file import REPORT_FILE
from .files import SIGNATURE_FILE
from .snapshot import private_folder

PASSWORD_VARIABLE = "HF_UNLEARN_KEY_PASSWORD"
_HALF = partial_of(Path(SIGNATURE_FILE)).name
_KEY_HELP = "make one with  openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
_PUBLIC_HELP = "make it with  openssl ec -in key.pem -pubout -out key.pub"


@dataclass(frozen=True)
class SigstoreIdentity:
    """The owner of an account, such as a mail address or a CI workflow, as certified by Sigstore's authority.

    Checking and making such signatures needs the network: Sigstore's roots of trust are fetched from there.

    Attributes:
        identity: The account, such as ``someone@example.org``.
        issuer: Who vouches for the account, such as ``https://accounts.google.com``.
    """

    identity: str
    issuer: str

    def __str__(self) -> str:
        return f"{self.identity} ({self.issuer})"


@dataclass(frozen=True)
class SigstoreLogin:
    """Sign with an identity that this process can prove: the CI job it runs in, or a browser login.

    Attributes:
        ambient: Whether to use the identity of the surrounding CI job, if there is one.
    """

    ambient: bool = True


SigningKey = str | Path | SigstoreLogin
TrustedKey = str | Path | SigstoreIdentity


@dataclass(frozen=True)
class SignatureFinding:
    """The result of checking a signature.

    Attributes:
        status: ``"none"``: there is none. ``"unknown"``: there is one over this report, but no key was
            given to check it with. ``"trusted"``: made by one of the trusted keys.
        by: The trusted key or identity that made it.
        problems: What is wrong, each sentence beginning with the file's name.
    """

    status: str
    by: str = ""
    problems: tuple[str, ...] = ()


NO_SIGNATURE = SignatureFinding("none")


def check_signature(report: bytes, signature: bytes | None, trusted: Sequence[TrustedKey]) -> SignatureFinding:
    """Check whether a report is signed, and by a trusted key or identity.

    Args:
        report: Bytes of the report.
        signature: Bytes of the signature file; ``None`` if there is none.
        trusted: Public keys (PEM files) and Sigstore identities. One of them must have signed; if none is given,
            the signature only has to be over this report.

    Raises:
        RequestError: A trusted key cannot be read or used.
        MissingExtraError: A key was given and ``model-signing`` is not installed.
        EnvironmentFailure: Sigstore's roots of trust cannot be fetched.
    """
    verifiers = [(str(key), _verifier(key)) for key in trusted]
    if signature is None:
        missing = (f"{SIGNATURE_FILE}: is missing, so none of the trusted keys can have signed this",)
        return SignatureFinding("none", problems=missing if trusted else ())
    wrong = _not_over(report, signature)
    if wrong:
        return SignatureFinding("none", problems=(f"{SIGNATURE_FILE}: {wrong}",))
    if not trusted:
        return SignatureFinding("unknown")
    with private_folder() as place:
        # The library reads files. These contain exactly the bytes that the caller parses and compares.
        copy, bundle = place / REPORT_FILE, place / SIGNATURE_FILE
        copy.write_bytes(report)
        bundle.write_bytes(signature)
        for name, verifier in verifiers:
            try:
                verifier.verify(copy, bundle)
            except Exception:  # the library raises a dozen kinds; none of them is a valid signature
                continue
            return SignatureFinding("trusted", by=name)
    return SignatureFinding("none", problems=(f"{SIGNATURE_FILE}: was not made by any of the trusted keys",))


def _not_over(report: bytes, signature: bytes) -> str | None:
    """Why a signature file, whoever made it, cannot be a signature over this report."""
    try:
        envelope = json.loads(signature)["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"], validate=True))
        resources = statement["predicate"]["resources"]
        signed = [(entry["name"], entry["algorithm"], entry["digest"]) for entry in resources]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "is not a signature of OpenSSF Model Signing"
    if signed != [(".", "sha256", hashlib.sha256(report).hexdigest())]:
        return "was made for another report than the one next to it"
    return None


def _verifier(key: TrustedKey) -> Any:
    library = _library()
    config = library.verifying.Config().set_hashing_config(_hashing_of(library))
    if isinstance(key, SigstoreIdentity):
        try:
            return config.use_sigstore_verifier(identity=key.identity, oidc_issuer=key.issuer)
        except Exception as error:  # any failure of the network or the roots of trust
            raise EnvironmentFailure(f"Sigstore cannot be used from here: {first_line(error)}") from error
    try:
        return config.use_elliptic_key_verifier(public_key=key)
    except OSError as error:
        raise RequestError(f"the trusted key {key} cannot be read ({error.strerror})") from error
    except Exception as error:  # its dependencies raise many types
        raise RequestError(
            f"{key} is not a public key on the curve P-256, P-384 or P-521 in PEM form: {_PUBLIC_HELP}"
        ) from error


def sign_report(folder: Path, key: SigningKey, password: str | None = None) -> Path:
    """Sign the report of a folder that was just written; :func:`~hf_unlearn.hub.check.sign_folder` checks it first.

    Args:
        folder: The folder.
        key: File of a private key on the curve P-256, P-384 or P-521 as PEM; or a Sigstore login.
        password: Of the key. By default what the environment variable ``HF_UNLEARN_KEY_PASSWORD`` holds.

    Returns:
        The signature file.

    Raises:
        RequestError: The key cannot be used.
        MissingExtraError: ``model-signing`` is not installed.
        EnvironmentFailure: The signature cannot be written, or Sigstore cannot be reached.
    """
    config = _signer(key, password)
    target = folder / SIGNATURE_FILE
    try:
        data = (folder / REPORT_FILE).read_bytes()
        with private_folder() as place, whole_file(target, _partial(folder)) as work:
            report = place / REPORT_FILE
            report.write_bytes(data)
            _run_signer(config, report, work, key)
            wrong = _not_over(data, work.read_bytes())
            if wrong:
                raise EnvironmentFailure(f"the signature that was made {wrong}")
    except OSError as error:
        raise EnvironmentFailure(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def remove_half_signature(folder: Path) -> None:
    """Delete what a killed process left in a folder while it signed the report there."""
    left = folder / _HALF
    if left.is_symlink() or left.is_file():
        left.unlink()


def _partial(folder: Path) -> Path:
    """Where a signature is made: beside the folder, because what a kill leaves inside is a file too many there."""
    beside = folder.resolve().parent
    if os.access(beside, os.W_OK) and beside.stat().st_dev == folder.stat().st_dev:
        return beside / f".{folder.resolve().name}.{_HALF}"
    return folder / _HALF


def _signer(key: SigningKey, password: str | None) -> Any:
    library = _library()
    config = library.signing.Config().set_hashing_config(_hashing_of(library))
    if isinstance(key, SigstoreLogin):
        try:
            return config.use_sigstore_signer(use_ambient_credentials=key.ambient)
        except Exception as error:  # any failure of the network, the roots of trust or the login
            raise EnvironmentFailure(f"Sigstore cannot be used from here: {first_line(error)}") from error
    if password is None:
        password = os.environ.get(PASSWORD_VARIABLE)
    secret = None if password is None else password.encode()
    try:
        return config.use_elliptic_key_signer(private_key=key, password=secret)
    except OSError as error:
        raise RequestError(f"the private key {key} cannot be read ({error.strerror}): {_KEY_HELP}") from error
    except Exception as error:  # its dependencies raise many types
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


def _library() -> Any:
    """The library ``model_signing``.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import model_signing
    except ImportError as error:
        # model-signing 1.1.1 imports pyOpenSSL without asking for it.
        package = "pyopenssl" if error.name == "OpenSSL" else "model-signing"
        raise MissingExtraError("a signature", package, "signing") from error
    return model_signing


def _hashing_of(library: Any) -> Any:
    """How the library has to hash a report, when it signs one and when it checks one."""
    # Fixed here, not read from the signature: the signer must not decide how things are hashed.
    return library.hashing.Config().use_file_serialization(hashing_algorithm="sha256")
