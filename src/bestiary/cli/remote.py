"""URIs among the arguments of a command: pictures to read, and the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bestiary.cluster.uris import is_uri, parse_uri
from bestiary.errors import UserError
from bestiary.text import format_names

if TYPE_CHECKING:
    from bestiary.box import PictureFile
    from bestiary.cluster.remote_files import RemotePicture


def split_uris(texts: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the paths and the URIs among arguments; raises UserError for both at once."""
    uris = [text for text in texts if is_uri(text)]
    for uri in uris:
        parse_uri(uri)
    if uris and len(uris) < len(texts):
        raise UserError(
            "Paths and URIs are not read by one command. Run it for each, or write the paths as file:///PATH."
        )
    return [] if uris else [Path(text) for text in texts], uris


def check_uri_options(uris: Sequence[str], output_uri: str | None, options: Mapping[str, object]) -> None:
    """Raise UserError for an option that does not go with URIs. options: values by name, None or False if not given."""
    if (uris or output_uri is not None) and (names := [name for name, value in options.items() if value]):
        raise UserError(
            f"{format_names(names)} needs files of this computer. Leave it out, or copy the pictures here and write"
            " the output here."
        )


def iter_remote_pictures(uris: Sequence[str], skipped: Counter[str]) -> Iterator[RemotePicture]:
    """Yield the pictures of URIs; files that are no pictures are counted in `skipped`. Raises as `RemoteSource`."""
    from bestiary.cluster.remote_files import RemotePicture, RemoteSource

    return map(RemotePicture, RemoteSource(uris).iter_rows(skipped))


def read_ahead(pictures: Iterable[PictureFile], max_bytes: int) -> Iterator[PictureFile]:
    """Yield the pictures while the bytes of the next ones are read. max_bytes: of a picture."""
    from bestiary.cluster.remote_files import prefetch

    return prefetch(pictures, max_bytes)


def describe_output(path: Path | None, uri: str | None) -> str:
    """Return the name of the output for the user: its URI without options, or its path."""
    return str(path) if uri is None else parse_uri(uri).uri


def locate_output(out: str | None) -> tuple[Path | None, str | None]:
    """Return the path on this computer that a command writes, and the URI that it is uploaded to afterwards, if any."""
    if out is None or not is_uri(out):
        return None if out is None else Path(out), None
    from bestiary.cluster.remote_output import local_path

    return local_path(out), out


def is_uploaded(output_uri: str | None) -> bool:
    """Return whether there is an output at a URI, and it is as this computer uploaded it."""
    if output_uri is None:
        return False
    from bestiary.cluster.remote_output import is_uploaded

    return is_uploaded(output_uri)


@contextmanager
def upload_afterwards(output_uri: str | None, *, resume: bool) -> Iterator[None]:
    """Upload what a `with` block writes at the path of `locate_output`, if it succeeds; do nothing without a URI."""
    if output_uri is None:
        yield
        return
    from bestiary.cluster.remote_output import open_output

    with open_output(output_uri, resume=resume):
        yield
