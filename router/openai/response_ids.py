"""Ids of responses that hosts keep: sealed, so that they lead to the host without showing it.

    id = ids.seal(HostResponse("openai", "gpt-5", "key_1", "resp_68…"))     # "resp_AAE…"
    await ids.unseal(id)                                                   # the same again

Such an id is an authenticated encryption (AES-GCM, NIST SP 800-38D) of what it stands for. The keys
are in the store, so that every process of every server can read it, also after a restart. They are
replaced from time to time, and older ones stay readable.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
import time
from collections.abc import Callable, Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from router.store.responses import ResponseStore, SealingKey

PREFIX = "resp_"
ROTATE_S = 30 * 86400.0
# How often a process looks whether there is a newer key; all of them are readable anyway.
READ_EVERY_S = 3600.0
MAX_ID_CHARS = 2048

_KEY_BYTES = 32
_NONCE_BYTES = 12
_NUMBER_BYTES = 4
# As `new_id` of the translators makes those of responses that the store has.
_STORED_ID = re.compile(r"resp_[0-9a-f]{48}")
_SEALED = re.compile(r"resp_[A-Za-z0-9_-]+")
_encode = msgspec.msgpack.Encoder().encode


class HostResponse(msgspec.Struct, frozen=True, array_like=True):
    """A response that a host keeps.

    Attributes:
        provider, model: the target that made it.
        key_id: the key that it was made with, "" without one.
        id: the host's id.
    """

    provider: str
    model: str
    key_id: str
    id: str


_decode = msgspec.msgpack.Decoder(HostResponse).decode


def is_stored_id(response_id: str) -> bool:
    """Return whether an id is of the form that responses of the store have."""
    return _STORED_ID.fullmatch(response_id) is not None


class ResponseIds:
    """Seals and unseals the ids of responses that hosts keep.

    Args:
        store: has the keys.
        clock: returns seconds since the epoch.
    """

    def __init__(self, store: ResponseStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = clock
        self._ciphers: Mapping[int, AESGCM] = {}
        self._newest = 0
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def ready(self) -> None:
        """Read the keys where that is due, so that `seal` has one.

        Raises:
            StoreError: they cannot be read, and none is known.
        """
        if self._now() < self._read_at + READ_EVERY_S:
            return
        async with self._reading:
            if self._now() >= self._read_at + READ_EVERY_S:
                await self._read_keys()

    async def _read_keys(self) -> None:
        now = self._now()
        keys = await self._store.sealing_keys(
            secrets.token_bytes(_KEY_BYTES), now, rotate_s=ROTATE_S
        )
        self._take(keys)
        self._read_at = now

    def _take(self, keys: list[SealingKey]) -> None:
        known = self._ciphers
        self._ciphers = {
            key.number: known.get(key.number) or AESGCM(bytes(key.value)) for key in keys
        }
        self._newest = keys[-1].number

    def seal(self, response: HostResponse) -> str:
        """Return the id that stands for a host's response; after `ready`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        number = self._newest.to_bytes(_NUMBER_BYTES, "big")
        # The number is checked with the rest, so that no key can be taken for another.
        sealed = self._ciphers[self._newest].encrypt(nonce, _encode(response), number)
        return PREFIX + base64.urlsafe_b64encode(number + nonce + sealed).decode().rstrip("=")

    async def unseal(self, response_id: str) -> HostResponse | None:
        """Return what an id stands for; None for any other text.

        Raises:
            StoreError: the keys cannot be read.
        """
        if len(response_id) > MAX_ID_CHARS or not _SEALED.fullmatch(response_id):
            return None
        text = response_id.removeprefix(PREFIX)
        try:
            sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except binascii.Error:
            return None
        if len(sealed) < _NUMBER_BYTES + _NONCE_BYTES:
            return None
        number = int.from_bytes(sealed[:_NUMBER_BYTES], "big")
        await self.ready()
        if self._newest < number <= self._newest + 1:
            # Another process may have made a key since.
            async with self._reading:
                if number not in self._ciphers:
                    await self._read_keys()
        cipher = self._ciphers.get(number)
        if cipher is None:
            return None
        nonce, rest = sealed[_NUMBER_BYTES:][:_NONCE_BYTES], sealed[_NUMBER_BYTES + _NONCE_BYTES :]
        try:
            return _decode(cipher.decrypt(nonce, rest, sealed[:_NUMBER_BYTES]))
        except (InvalidTag, msgspec.MsgspecError):
            return None
