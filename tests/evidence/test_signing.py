"""Keys and signatures, with `model_signing` itself as the judge."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from model_signing import verifying

from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.evidence.file_names import MODEL_SIGNATURE, PACKAGE_SIGNATURE, PUBLIC_KEY
from rsqa_pipeline.evidence.project import Model
from rsqa_pipeline.evidence.signing import fault_of, read_key, sign_model, sign_package, write_public_key

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, PLAIN))
    write_public_key(read_key(path), tmp_path / PUBLIC_KEY)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Model:
    folder = tmp_path / "model"
    (folder / "deeper").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "deeper/config.json").write_text("{}")
    return Model("vlm", "vlm", folder)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "README.md").write_text("a card")
    (folder / "data_manifest.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", [None, "model.safetensors", "deeper/config.json", "README.md", "data_manifest.json"])
def test_a_published_copy_is_verified_until_one_byte_changes(
    tmp_path: Path, key: Path, model: Model, documents: Path, name: str | None
) -> None:
    sign_model(model, documents, key)
    copy = tmp_path / "elsewhere"
    shutil.copytree(model.folder, copy)
    for document in ("README.md", "data_manifest.json"):
        shutil.copyfile(documents / document, copy / document)
    checked = verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / PUBLIC_KEY)
    if name is None:
        checked.verify(copy, documents / MODEL_SIGNATURE)
        return
    content = bytearray((copy / name).read_bytes())
    content[0] ^= 1
    (copy / name).write_bytes(bytes(content))
    with pytest.raises(ValueError, match="mismatch"):
        checked.verify(copy, documents / MODEL_SIGNATURE)


def test_a_package_is_verified_until_a_file_changes_or_comes(tmp_path: Path, key: Path, documents: Path) -> None:
    sign_package(documents, key)
    moved = documents.rename(tmp_path / "moved")
    signature, public = moved / PACKAGE_SIGNATURE, tmp_path / PUBLIC_KEY
    assert fault_of(moved, signature, public) is None
    (moved / "more").write_text("")
    assert "more" in str(fault_of(moved, signature, public))
    (moved / "more").unlink()
    (moved / "README.md").write_text("b card")
    assert "README.md" in str(fault_of(moved, signature, public))


def test_another_key_does_not_verify(tmp_path: Path, key: Path, documents: Path) -> None:
    sign_package(documents, key)
    other = tmp_path / "other.pem"
    write_public_key(ec.generate_private_key(ec.SECP256R1()), other)
    assert fault_of(documents, documents / PACKAGE_SIGNATURE, other) is not None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no file"),
        (b"not a key", "not a private key in PEM"),
        (rsa.generate_private_key(65537, 2048).private_bytes(PEM, PKCS8, PLAIN), "not an elliptic key"),
        (ec.generate_private_key(ec.SECP256K1()).private_bytes(PEM, PKCS8, PLAIN), "not an elliptic key"),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                PEM, PKCS8, serialization.BestAvailableEncryption(b"secret")
            ),
            "passphrase",
        ),
    ],
)
def test_an_unusable_key_is_named_in_one_line(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=expected) as caught:
        read_key(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
