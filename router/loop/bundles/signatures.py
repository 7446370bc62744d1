"""Ed25519 signatures: who vouches for a bundle.

    write_key(path, passphrase=None)
    key = read_key(path, passphrase=None)
    key.sign(manifest), key.public_pem, fingerprint(key.public_pem)

Keys are PEM files as OpenSSL (`openssl genpkey -algorithm ed25519`) and OpenSSH (`ssh-keygen -t
ed25519`) write them. A signature is of the bytes of the manifest, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from providers.errors import EvidenceError
from providers.plain_files import read_plain_file

MAX_KEY_BYTES = 16 * 1024
SIGNATURE_BYTES = 64

_PEM = serialization.Encoding.PEM
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)


class SigningKey(NamedTuple):
    """A private key, and the public one as a bundle has it."""

    private: Ed25519PrivateKey
    public_pem: bytes

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message; the same for the same message."""
        return self.private.sign(message)


def write_key(path: Path, *, passphrase: str | None) -> SigningKey:
    """Make a new key, and write it into a new file that only its owner can read. Blocks.

    Raises:
        EvidenceError: the file is there already, or cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        lock = serialization.BestAvailableEncryption(passphrase.encode())
    pem = private.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, lock)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise EvidenceError(f"{path}: the file is there already; a key is never replaced") from None
    except (OSError, ValueError) as error:
        raise EvidenceError(f"{path}: {getattr(error, 'strerror', error)}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return SigningKey(private, _public_pem(private.public_key()))


def read_key(path: Path, *, passphrase: str | None) -> SigningKey:
    """Read a private key. Blocks.

    Raises:
        EvidenceError: the file cannot be read, others than its owner can read it, or it has no
            Ed25519 key that this passphrase opens.
    """
    pem = _read(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise EvidenceError(f"{path}: others can read this key; run 'chmod 600 {path}'")
    secret = None if passphrase is None else passphrase.encode()
    try:
        if b"OPENSSH PRIVATE KEY" in pem:
            private: object = serialization.load_ssh_private_key(pem, secret)
        else:
            private = serialization.load_pem_private_key(pem, secret)
    except _UNREADABLE as error:
        raise EvidenceError(_why_not_read(path, pem, passphrase)) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise EvidenceError(f"{path}: not an Ed25519 key; `evalrouter evidence keygen` makes one")
    return SigningKey(private, _public_pem(private.public_key()))


def _why_not_read(path: Path, pem: bytes, passphrase: str | None) -> str:
    if b"PRIVATE KEY" not in pem:
        return f"{path}: no private key; `evalrouter evidence keygen` makes one"
    if passphrase is None:
        return f"{path}: the key cannot be read; if it has a passphrase, set EVIDENCE_PASSPHRASE"
    return f"{path}: the passphrase does not open the key"


def read_public_key(path: Path) -> bytes:
    """Return the PEM of the public key in a file, which may have the private one. Blocks.

    Raises:
        EvidenceError: it has none.
    """
    pem = _read(path)
    if b"PRIVATE KEY" in pem:
        raise EvidenceError(
            f"{path}: this is a private key; give whoever verifies a bundle the public one, as "
            f"'openssl pkey -in {path.name} -pubout' prints it"
        )
    try:
        if pem.lstrip().startswith(b"ssh-"):
            key: object = serialization.load_ssh_public_key(pem)
        else:
            key = serialization.load_pem_public_key(pem)
    except _UNREADABLE as error:
        raise EvidenceError(f"{path}: no public key that can be read: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise EvidenceError(f"{path}: not an Ed25519 key")
    return _public_pem(key)


def _read(path: Path) -> bytes:
    try:
        return read_plain_file(path, MAX_KEY_BYTES)
    except OSError as error:
        raise EvidenceError(f"{path}: no key can be read: {error.strerror}") from error


def is_signed(public_pem: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether a signature is of a message, by a public key."""
    try:
        key = serialization.load_pem_public_key(public_pem)
    except _UNREADABLE:
        return False
    if not isinstance(key, Ed25519PublicKey):
        return False
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def fingerprint(public_pem: bytes) -> str:
    """Return what people compare keys by: SHA-256 of the key, as ssh-keygen writes such hashes.

    It is of the key as DER (`openssl pkey -pubin -outform DER`). "" for what is no key.
    """
    try:
        key = serialization.load_pem_public_key(public_pem)
    except _UNREADABLE:
        return ""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = base64.b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
