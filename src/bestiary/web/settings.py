"""Settings and limits of a server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from bestiary.errors import UserError

LOOPBACK = "127.0.0.1"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and its limits.

    max_bytes: per request. max_pixels: per picture. max_pictures: per request. max_waiting: pictures accepted and not
    yet answered. max_held_bytes: of all requests together. seconds: timeout for a request to arrive, and again for its
    response. allowed_names: values of the Host header allowed besides localhost.
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
        """Raise UserError for a public address without a token, and for a token that no HTTP header can carry."""
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise UserError("A token has only printable ASCII characters and no spaces. Choose another --token.")
        if self.token == "":
            raise UserError("The token is empty: give --token WORD, or unset BESTIARY_TOKEN.")
        if not self.is_local and not self.token:
            raise UserError(
                f"On {self.host} other computers can reach this server, so it needs a token: add --token WORD, or set"
                " BESTIARY_TOKEN. Without --host only this computer can reach it, and it needs none."
            )

    @property
    def is_local(self) -> bool:
        """Whether only this computer can reach the server (loopback address)."""
        if self.host in LOCAL_NAMES:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
