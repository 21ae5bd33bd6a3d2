"""A checkpoint's signature: by a key, so that whoever changes a manifest and computes its digest
anew is found out. Imports no torch.

The code is HMAC-SHA256 (RFC 2104) over the manifest's body, which holds the digest of every other
byte. Whoever has the key can sign, so it lies with whoever runs the job: in a file that nobody else
may read.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from pathlib import Path

from dougong.errors import CheckpointError

SCHEME = "hmac-sha256"


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

    def check(self, text: bytes, found: Signature | None, place: Path) -> None:
        """CheckpointError where a body has no signature by this key. `place`: the manifest."""
        if found is None:
            raise CheckpointError(
                f"{place}: is not signed, and must be, by the key of {self.path}; sign one that "
                f"you trust: `dougong verify {place.parent} --key {self.path} --sign`"
            )
        if found.key != self.name:
            raise CheckpointError(
                f"{place}: is signed by key {found.key}, and {self.path} is key {self.name}; name "
                "the key that it was signed with (checkpoint.sign, --key)"
            )
        if not hmac.compare_digest(found.code, self.sign(text).code):
            raise CheckpointError(
                f"{place}: its signature by key {found.key} is wrong: somebody without the key has "
                "changed it; use another checkpoint"
            )

    def _code(self, text: bytes) -> str:
        return hmac.digest(self.secret, text, "sha256").hex()
