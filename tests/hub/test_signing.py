"""A signature says who made the report; whatever was changed with or without it is found."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_unlearn.cli.main import main
from hf_unlearn.errors import MissingExtraError, RequestError, VerificationError
from hf_unlearn.hub.check import check_folder, sign_folder
from hf_unlearn.hub.files import SIGNATURE_FILE
from hf_unlearn.hub.verified import VerifiedModel, check
from hf_unlearn.verification.report_file import canonical, seal

REPORT = "unlearning_report.json"
pytest.importorskip("OpenSSL", reason="model-signing imports pyOpenSSL")


def make_keys(folder: Path, name: str, password: bytes | None = None, curve: str = "SECP256R1") -> tuple[Path, Path]:
    """A private and a public key as PEM files."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(getattr(ec, curve)())
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The publisher's keys."""
    return make_keys(tmp_path_factory.mktemp("keys"), "publisher")


@pytest.fixture(scope="module")
def other_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Somebody else's."""
    return make_keys(tmp_path_factory.mktemp("keys"), "other")


@pytest.fixture
def signed(copied: Path, keys) -> Path:
    """A signed folder, to be changed."""
    sign_folder(copied, keys[0])
    return copied


def rewrite_report(folder: Path, **changes: str) -> None:
    """Change the digests of files in the report as somebody would who knows how it is made."""
    report = json.loads((folder / REPORT).read_bytes())
    for name, digest in changes.items():
        report["files"][name] = digest
        report["models"]["unlearned"]["files"]["identity"][name] = digest
    (folder / REPORT).write_bytes(canonical(seal(report)))


def only_problem(folder: Path, keys: list[Path]) -> str:
    (problem,) = check_folder(folder, keys).problems
    with pytest.raises(VerificationError) as raised:
        VerifiedModel.from_pretrained(folder, require="any", trusted_keys=keys)
    assert problem in str(raised.value)
    return problem


def test_signed_and_loaded(signed: Path, keys, other_keys) -> None:
    result = check_folder(signed, [other_keys[1], keys[1]])
    assert result.intact and result.signature.status == "trusted" and result.signature.by == str(keys[1])
    assert check_folder(signed).intact and check_folder(signed).signature.status == "unknown"
    for trusted in ([str(keys[1])], str(keys[1]), keys[1]):  # a key alone is not taken for a list of letters
        assert VerifiedModel.from_pretrained(signed, trusted_keys=trusted) is not None
        assert check(signed, trusted_keys=trusted).signature.status == "trusted"
        assert check_folder(signed, trusted).signature.status == "trusted"


def test_the_tool_of_model_signing_reads_it(signed: Path, keys) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", signed / REPORT]
    done = subprocess.run(
        [*command, "--signature", signed / SIGNATURE_FILE, "--public_key", keys[1]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_report_and_digests_edited_together(signed: Path, keys) -> None:
    """Everything fits everything else, as in :func:`test_check_tamper.test_a_report_sealed_again`: the key tells."""
    weights = signed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    rewrite_report(signed, **{"model.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()})
    problem = f"{SIGNATURE_FILE}: was made for another report than the one next to it"
    assert only_problem(signed, [keys[1]]) == problem
    assert check_folder(signed).problems == (problem,), "found without a key too, as long as the signature is left"
    (signed / SIGNATURE_FILE).unlink()
    assert check_folder(signed).intact, "without a signature and without a key nothing tells"
    assert only_problem(signed, [keys[1]]).startswith(f"{SIGNATURE_FILE}: is missing")


def test_a_verdict_edited_and_sealed_again(failed, keys, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(failed.main, tmp_path / "failed"))
    sign_folder(folder, keys[0])
    report = json.loads((folder / REPORT).read_bytes())
    report["verdict"] |= {"status": "passed", "reasons": []}
    (folder / REPORT).write_bytes(canonical(seal(report)))
    with pytest.raises(VerificationError, match="was made for another report"):
        VerifiedModel.from_pretrained(folder, trusted_keys=[keys[1]])


def test_a_signature_by_another_key(signed: Path, keys, other_keys) -> None:
    assert only_problem(signed, [other_keys[1]]) == f"{SIGNATURE_FILE}: was not made by any of the trusted keys"
    sign_folder(signed, other_keys[0])
    assert only_problem(signed, [keys[1]]) == f"{SIGNATURE_FILE}: was not made by any of the trusted keys"


def test_the_signature_of_another_release(signed: Path, passed, keys, tmp_path: Path) -> None:
    other = Path(shutil.copytree(passed.variant, tmp_path / "other"))
    shutil.copyfile(sign_folder(other, keys[0]), signed / SIGNATURE_FILE)
    assert only_problem(signed, [keys[1]]) == f"{SIGNATURE_FILE}: was made for another report than the one next to it"


def test_a_statement_edited_to_fit(signed: Path, keys) -> None:
    """The signature names the new report, and the signing key never saw it."""
    import base64

    old = hashlib.sha256((signed / REPORT).read_bytes()).hexdigest()
    rewrite_report(signed)
    report = json.loads((signed / REPORT).read_bytes())
    (signed / REPORT).write_bytes(canonical(seal({**report, "name": "other"})))
    new = hashlib.sha256((signed / REPORT).read_bytes()).hexdigest()
    bundle = json.loads((signed / SIGNATURE_FILE).read_text())
    statement = base64.b64decode(bundle["dsseEnvelope"]["payload"]).decode().replace(old, new)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(statement.encode()).decode()
    (signed / SIGNATURE_FILE).write_text(json.dumps(bundle))
    assert check_folder(signed).intact, "whether a signature is genuine is a question to a key"
    assert only_problem(signed, [keys[1]]) == f"{SIGNATURE_FILE}: was not made by any of the trusted keys"


def test_a_hint_at_a_trusted_key_is_no_signature_by_it(signed: Path, keys, other_keys) -> None:
    hint = json.loads((signed / SIGNATURE_FILE).read_text())["verificationMaterial"]
    sign_folder(signed, other_keys[0])
    bundle = json.loads((signed / SIGNATURE_FILE).read_text())
    for material in (hint, {"publicKey": {}}, {}):
        (signed / SIGNATURE_FILE).write_text(json.dumps({**bundle, "verificationMaterial": material}))
        assert only_problem(signed, [keys[1]]) == f"{SIGNATURE_FILE}: was not made by any of the trusted keys"


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"[]", b"\xff\xfe", b'{"dsseEnvelope": {"payload": "e30="}}', b"[" * 9999]
)
def test_what_is_no_signature(signed: Path, keys, junk: bytes) -> None:
    (signed / SIGNATURE_FILE).write_bytes(junk)
    assert only_problem(signed, [keys[1]]) == f"{SIGNATURE_FILE}: is not a signature of OpenSSF Model Signing"
    assert not check_folder(signed).intact


def test_every_byte_of_the_signed_statement_counts(signed: Path, keys) -> None:
    whole = (signed / SIGNATURE_FILE).read_bytes()
    bundle = json.loads(whole)
    mac = bundle["dsseEnvelope"]["signatures"][0]["sig"]
    for place in (0, len(mac) // 2, len(mac) - 4):
        other = mac[:place] + ("B" if mac[place] == "A" else "A") + mac[place + 1 :]
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = other
        (signed / SIGNATURE_FILE).write_text(json.dumps(bundle))
        assert "was not made by any" in only_problem(signed, [keys[1]])
    bundle["dsseEnvelope"]["signatures"] = []
    (signed / SIGNATURE_FILE).write_text(json.dumps(bundle))
    assert "was not made by any" in only_problem(signed, [keys[1]])


def test_a_signed_folder_is_still_checked_file_by_file(signed: Path, keys) -> None:
    data = bytearray((signed / "config.json").read_bytes())
    data[-2] ^= 1
    (signed / "config.json").write_bytes(bytes(data))
    assert only_problem(signed, [keys[1]]).startswith("config.json: is not the file that was verified")


def test_only_what_is_intact_is_signed_and_a_stale_signature_is_replaced(signed: Path, keys) -> None:
    rewrite_report(signed)
    (signed / SIGNATURE_FILE).write_text("stale")
    sign_folder(signed, keys[0])
    assert check_folder(signed, [keys[1]]).intact
    (signed / "notes.txt").write_text("x")
    with pytest.raises(RequestError, match=r"was not signed, because it does not match its report: notes\.txt"):
        sign_folder(signed, keys[0])


def test_encrypted_keys_and_other_curves(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = make_keys(tmp_path, "locked", b"pass word", "SECP384R1")
    with pytest.raises(RequestError, match=r"encrypted and no password was given; set .* HF_UNLEARN_KEY_PASSWORD"):
        sign_folder(copied, private)
    with pytest.raises(RequestError, match="the password does not open it") as raised:
        sign_folder(copied, private, "wrong word")
    assert "wrong word" not in str(raised.value)
    monkeypatch.setenv("HF_UNLEARN_KEY_PASSWORD", "pass word")
    sign_folder(copied, private)
    assert check_folder(copied, [public]).intact
    with pytest.raises(RequestError, match="is not a private key on the curve"):
        sign_folder(copied, make_keys(tmp_path, "bitcoin", curve="SECP256K1")[0])


def test_keys_that_are_none(copied: Path, keys, tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("hello")
    for wrong, said in ((text, "is not a private key"), (keys[1], "is not a private key"), (tmp_path / "no", "read")):
        with pytest.raises(RequestError, match=said):
            sign_folder(copied, wrong)
    for wrong, said in ((text, "is not a public key"), (keys[0], "is not a public key"), (tmp_path / "no", "read")):
        with pytest.raises(RequestError, match=said):
            VerifiedModel.from_pretrained(copied, trusted_keys=[wrong])


def test_a_missing_library_is_named(copied: Path, keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingExtraError, match=r"needs model-signing, .* 'hf_unlearn\[signing\]'"):
        sign_folder(copied, keys[0])
    with pytest.raises(MissingExtraError):
        VerifiedModel.from_pretrained(copied, trusted_keys=[keys[1]])
    assert check_folder(copied).intact, "without keys nothing is needed"


def test_sign_and_check_on_the_command_line(copied: Path, keys, other_keys, capsys) -> None:
    folder, (private, public) = str(copied), map(str, keys)
    assert main(["check", folder]) == 0
    assert "not signed: the maker of this folder may have written the report too" in capsys.readouterr().out
    assert main(["sign", folder, "--private-key", private]) == 0
    assert main(["check", folder, "--trusted-key", str(other_keys[1]), "--trusted-key", public]) == 0
    assert f"signed by {public}" in capsys.readouterr().out
    assert main(["check", folder, "--trusted-key", public, "--require-signature"]) == 0
    assert main(["check", folder]) == 0
    assert "the signer was not checked" in capsys.readouterr().out
    assert main(["check", folder, "--require-signature"]) == 2
    assert "say whose signature you want with --trusted-key PUB" in capsys.readouterr().err
    assert main(["check", folder, "--trusted-key", str(other_keys[1])]) == 1
    assert "was not made by any of the trusted keys" in capsys.readouterr().err
    assert main(["sign", folder, "--private-key", public]) == 2
    assert main(["check", folder, "--report-digest", "0" * 64]) == 1
