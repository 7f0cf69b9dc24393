"""Signatures of models and of a whole package by an elliptic key, made and verified by `model_signing`."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying

from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.evidence.file_names import CARD, DATA_MANIFEST, MODEL_SIGNATURE, PACKAGE_SIGNATURE
from rsqa_pipeline.evidence.project import Model

_CURVES = ("secp256r1", "secp384r1", "secp521r1")


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key in PEM, without passphrase.

    Raises:
        UsageError: there is none, or `model_signing` cannot use it.
    """
    made = "make one with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`"
    if not path.is_file():
        raise UsageError(f"--key: no file {path}; {made}")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise UsageError(f"--key: {path} cannot be read: {error.strerror}") from error
    except TypeError as error:
        raise UsageError(f"--key: {path} has a passphrase; give a key without one") from error
    except ValueError as error:
        raise UsageError(f"--key: {path} is not a private key in PEM; {made}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise UsageError(f"--key: {path} is not an elliptic key of P-256, P-384 or P-521; {made}")
    return key


def write_public_key(key: ec.EllipticCurvePrivateKey, out: Path) -> None:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    out.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))


def fingerprint(public_key: Path) -> str:
    """Hex sha256 of a public key in DER, as ``openssl pkey -pubin -outform DER | sha256sum`` prints it.

    Raises:
        DataError: the file is not a public key in PEM.
    """
    try:
        key = serialization.load_pem_public_key(public_key.read_bytes())
    except (ValueError, OSError) as error:
        raise DataError(f"{public_key} is not a public key in PEM") from error
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


@contextmanager
def published(model: Model, documents: Path) -> Iterator[Path]:
    """A folder of links as the model is published: its files, its card and its data manifest side by side."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / model.name
        names = {path.relative_to(model.folder): path for path in model.folder.rglob("*") if path.is_file()}
        names |= {Path(name): documents / name for name in (CARD, DATA_MANIFEST)}
        for name, path in names.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path.resolve())
        yield folder


def sign_model(model: Model, documents: Path, key: Path) -> None:
    """Writes MODEL_SIGNATURE into ``documents``, over weights, card and data manifest."""
    with published(model, documents) as folder:
        _signer(key, _following()).sign(folder, documents / MODEL_SIGNATURE)


def sign_package(folder: Path, key: Path) -> None:
    """Writes PACKAGE_SIGNATURE into ``folder``, over all its files but signatures."""
    signatures = [path.relative_to(folder) for path in folder.rglob("*.sig")]
    ignored = hashing.Config().set_ignored_paths(paths=[*signatures, PACKAGE_SIGNATURE], ignore_git_paths=False)
    _signer(key, ignored).sign(folder, folder / PACKAGE_SIGNATURE)


def fault_of(folder: Path, signature: Path, public_key: Path) -> str | None:
    """Why a signature does not hold for a folder; None if it does."""
    checked = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        if signature.name == PACKAGE_SIGNATURE:
            ignored = [path.relative_to(folder) for path in folder.rglob("*.sig")]
            checked.set_hashing_config(hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False))
        else:
            checked.set_hashing_config(_following())
        checked.verify(folder, signature)
    except Exception as error:  # the library has no type of its own: each failure means that it does not hold
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _following() -> hashing.Config:
    return hashing.Config().set_allow_symlinks(True)


def _signer(key: Path, hashed: hashing.Config) -> signing.Config:
    return signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(hashed)
