"""URIs of pictures and outputs on other machines: s3://, gs://, hdfs:// and file://.

A URI has the meaning that pyarrow gives it: percent escapes are decoded, and options follow a question mark. It never
has credentials: those come from the environment or from files of the computer that reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlencode

from bestiary.errors import InputError, did_you_mean
from bestiary.text import format_names, hide_passwords

S3, GS, HDFS, FILE = "s3", "gs", "hdfs", "file"
SCHEMES = (S3, GS, HDFS, FILE)
ANONYMOUS = "anonymous"  # the user of a bucket that needs no credentials
ENDPOINT, REGION = "endpoint_override", "region"  # options of pyarrow
BYTES_COLUMN, ID_COLUMN = "bytes_column", "id_column"  # options of ours, of parquet
OPTIONS = {
    S3: (REGION, ENDPOINT, "scheme", BYTES_COLUMN, ID_COLUMN),
    GS: (ENDPOINT, "scheme", BYTES_COLUMN, ID_COLUMN),
    HDFS: (BYTES_COLUMN, ID_COLUMN),
    FILE: (BYTES_COLUMN, ID_COLUMN),
}
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)  # two letters or more: C:/ is a drive
_ESCAPED = re.compile(r'[\x00-\x20\x7f%?#"<>\\^`{|}]')  # what a URI cannot have as it is, in ASCII


@dataclass(frozen=True)
class Location:
    """A parsed URI.

    host: the bucket, the name node of HDFS, perhaps with a port, or empty; key: the decoded path without a slash before
    it; user: "anonymous", a user of HDFS, or empty.
    """

    scheme: str
    host: str
    key: str
    user: str = ""
    options: tuple[tuple[str, str], ...] = field(default=())

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        """The suffix of the last part, in lower case, such as ".jpg"."""
        return PurePosixPath(self.key).suffix.lower()

    @property
    def path(self) -> str:
        """The path for pyarrow's file system."""
        return f"{self.host}/{self.key}" if self.scheme in (S3, GS) else f"/{self.key}"

    @property
    def uri(self) -> str:
        """The URI that identifies the file: without options, so that it stays the same behind another endpoint."""
        user = f"{self.user}@" if self.user and self.scheme == HDFS else ""
        return f"{self.scheme}://{user}{self.host}/{_ESCAPED.sub(_escape, self.key)}"

    @property
    def full_uri(self) -> str:
        """The URI with the options and the user that reading it needs."""
        user = f"{self.user}@" if self.user else ""
        options = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.scheme}://{user}{self.host}/{_ESCAPED.sub(_escape, self.key)}{options}"

    def option(self, name: str) -> str | None:
        """Return the value of an option, None without it."""
        return dict(self.options).get(name)

    def with_key(self, key: str) -> Location:
        """Return another file of the same bucket or file system."""
        return replace(self, key=key)

    def with_options(self, **options: str) -> Location:
        """Return the location with these options, which replace those of the same name."""
        return replace(self, options=tuple(sorted((dict(self.options) | options).items())))


def is_uri(text: str) -> bool:
    """Return whether a text is a URI, of whatever scheme, rather than a path.

    >>> is_uri("s3://bucket/new"), is_uri("new/fox.jpg"), is_uri("C:/new")
    (True, False, False)
    """
    return _URI.match(text) is not None


def parse_uri(text: str) -> Location:
    """Return the parts of a URI.

    Raises InputError, without the credentials in it, for an unknown scheme, a missing bucket, credentials, a fragment,
    and an unknown option.

    >>> parse_uri("s3://bucket/new%20pictures/?region=eu-west-1").key
    'new pictures/'
    """
    match = _URI.fullmatch(text)
    if match is None:
        raise InputError(f'"{redact_uri(text)}" is no URI; expected one such as s3://bucket/folder.')
    scheme, rest = match[1].lower(), match[2]
    if scheme not in SCHEMES:
        schemes = did_you_mean(scheme, SCHEMES)
        raise InputError(f'"{redact_uri(text)}" has the scheme {scheme}://, which is not read. {schemes}')
    rest, _, query = rest.partition("?")
    rest, _, fragment = rest.partition("#")
    if fragment or "#" in query:
        raise InputError(f'"{redact_uri(text)}" has a fragment. Write # in a name as %23.')
    authority, slash, key = rest.partition("/")
    if "@" in key and "@" not in authority and ":" in authority and scheme != HDFS:  # a secret with a slash
        authority, key = rest.rsplit("@", 1)[0] + "@", rest.rsplit("@", 1)[1]
    user, _, host = authority.rpartition("@")
    if ":" in user or (user and scheme == S3 and user != ANONYMOUS):
        raise InputError(
            f'"{redact_uri(text)}" has credentials, which would stand in lists of processes and in outputs. Leave them'
            f" out, and {CREDENTIALS[scheme]}."
        )
    if scheme in (S3, GS) and not host:
        raise InputError(f'"{redact_uri(text)}" names no bucket; expected {scheme}://BUCKET/FOLDER.')
    if scheme == FILE and (host not in ("", "localhost") or not slash):
        raise InputError(f'"{redact_uri(text)}" has the host "{host}"; expected file:///PATH, with three slashes.')
    return Location(
        scheme,
        "" if scheme == FILE else host,
        unquote(key),
        user,
        _parse_options(text, scheme, query),
    )


# How a user gives credentials, as the end of a message.
CREDENTIALS = {
    S3: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (for a public bucket: s3://anonymous@BUCKET)",
    GS: "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file (for a public"
    " bucket: gs://anonymous@BUCKET)",
    HDFS: "run `kinit`, or name the user as in hdfs://USER@HOST:PORT/FOLDER",
    FILE: "give this user the right to read it",
}


def redact_uri(text: str) -> str:
    """Return a URI without user, password and the values of options: for messages about one that is not valid.

    >>> redact_uri("s3://AKIA123:se/cret@bucket/new?token=1")
    's3://***@bucket/new?***'
    """
    match = _URI.match(text)
    if match is None:
        return hide_passwords(text)
    rest, mark, _ = match[2].partition("?")
    before, at, after = rest.rpartition("@")
    if at and ("/" not in before or ":" in before.partition("/")[0]):
        rest = f"***@{after}"
    return f"{match[1]}://{rest}{'?***' if mark else ''}"


def _parse_options(text: str, scheme: str, query: str) -> tuple[tuple[str, str], ...]:
    options = parse_qsl(query, keep_blank_values=True)
    if unknown := [name for name, _ in options if name not in OPTIONS[scheme]]:
        raise InputError(
            f'"{redact_uri(text)}" has the option {format_names(unknown)}; known for {scheme}://:'
            f" {format_names(OPTIONS[scheme])}. Write ? in a name as %3F."
        )
    if any(name == ENDPOINT and "@" in value for name, value in options):
        raise InputError(f'"{redact_uri(text)}" has credentials in {ENDPOINT}. Leave them out.')
    return tuple(sorted(options))


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"
