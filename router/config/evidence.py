"""`evidence:` of the config: who signs bundles of evidence."""

from __future__ import annotations

from providers.base import Secret
from router.config.section import Section


class Evidence(Section, frozen=True, kw_only=True):
    """Who signs the bundles of evidence that this server or its commands write.

    Attributes:
        key: a file with an Ed25519 private key, which only its owner may read; "" for bundles
            without a signature. `evalrouter evidence keygen` makes one.
        passphrase: what the key is encrypted with; else `EVIDENCE_PASSPHRASE`.
    """

    key: str = ""
    passphrase: Secret = Secret("")
