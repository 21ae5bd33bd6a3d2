"""A checkpoint's signature: by a key, so that whoever changes a manifest and computes its digest
anew is found out. Imports no torch.

The code is HMAC-SHA256 (RFC 2104) over the manifest's body, which holds the digest of every other
byte. Whoever has the key can sign, so it lies with whoever runs the job: in a file that nobody else
may read.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from dougong.errors import ManifestError

SCHEME = "hmac-sha256"


class KeyStanding(Enum):
    """How a manifest stands to a key."""

    SIGNED = "signed by it"
    UNSIGNED = "not signed"
    OTHER = "signed by another key"
    WRONG = "bears the key's name, and its code is another"


class SignatureError(ManifestError):
    """A manifest has no good signature by the key that it must be signed with."""

    def __init__(
        self, text: str, reason: str = "", standing: KeyStanding = KeyStanding.UNSIGNED
    ) -> None:
        super().__init__(text, reason)
        self.standing = standing


@dataclass(frozen=True)
class Signature:
    """What a manifest carries. `key`: the key's name, which tells nothing of it; `code`: in hex."""

    key: str
    code: str


@dataclass(frozen=True)
class SigningKey:
    """A key, and the file that it was read from."""

    path: Path
    secret: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """By which keys are told apart."""
        return self._code(b"dougong: the name of a key")[:16]

    def sign(self, text: bytes) -> Signature:
        """The signature of a manifest's body."""
        return Signature(self.name, self._code(b"dougong: a manifest\n" + text))

    def standing(self, text: bytes, found: Signature | None) -> KeyStanding:
        """How a manifest's body stands to this key, by the signature that it carries."""
        if found is None:
            return KeyStanding.UNSIGNED
        if found.key != self.name:
            return KeyStanding.OTHER
        is_right = hmac.compare_digest(found.code.encode(), self.sign(text).code.encode())
        return KeyStanding.SIGNED if is_right else KeyStanding.WRONG

    def check(self, text: bytes, found: Signature | None, place: Path) -> None:
        """SignatureError where a body has no signature by this key. `place`: the manifest."""
        standing = self.standing(text, found)
        if standing is KeyStanding.SIGNED:
            return
        named = "" if found is None else found.key
        reason, remedy = self._words(standing, named, place.parent)
        raise SignatureError(f"{place}: {reason}; {remedy}", reason, standing)

    def _words(self, standing: KeyStanding, named: str, checkpoint: Path) -> tuple[str, str]:
        """Why it is refused, and what helps."""
        if standing is KeyStanding.UNSIGNED:
            return (
                f"is not signed, and must be, by the key of {self.path}",
                f"`dougong verify {checkpoint} --key {self.path}` says when to sign it",
            )
        if standing is KeyStanding.OTHER:
            return (
                f"is signed by key {named}, and {self.path} is key {self.name}",
                "name the key that it was signed with (checkpoint.sign, --key)",
            )
        return (
            f"its signature by key {named} is wrong: somebody without the key has changed it",
            "use another checkpoint",
        )

    def _code(self, text: bytes) -> str:
        return hmac.digest(self.secret, text, "sha256").hex()
