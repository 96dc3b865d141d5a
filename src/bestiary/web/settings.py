"""What a server allows, in one place."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from bestiary.errors import UserError

LOOPBACK = "127.0.0.1"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens and what it refuses.

    max_bytes: of one request. max_pixels: of one picture. max_pictures: in one request. max_waiting: pictures that are
    taken and not yet answered. max_held_bytes: of all requests together. seconds: for a request to arrive, and again
    for its answer. allowed_names: for the Host header, beside the usual ones.
    """

    host: str = LOOPBACK
    port: int = 8000
    token: str | None = None
    allowed_names: tuple[str, ...] = ()
    max_bytes: int = 32_000_000
    max_pixels: int = 50_000_000
    max_pictures: int = 64
    max_waiting: int = 256
    max_held_bytes: int = 512_000_000
    seconds: float = 30.0

    def __post_init__(self) -> None:
        """Raise UserError for a server that others reach and anybody may use, and a token that no header can carry."""
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise UserError(
                "A token is made of ASCII letters, digits and signs, without spaces. Choose another --token."
            )
        if self.token == "":
            raise UserError("The token is empty: give --token WORD, or unset BESTIARY_TOKEN.")
        if not self.is_local and not self.token:
            raise UserError(
                f"On {self.host} others can reach this server, so it needs a token: add --token WORD, or set"
                " BESTIARY_TOKEN. Without --host it is for this computer only, and needs none."
            )

    @property
    def is_local(self) -> bool:
        """Whether only this computer can reach the server."""
        if self.host in LOCAL_NAMES:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
