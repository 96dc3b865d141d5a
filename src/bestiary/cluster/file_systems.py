"""File systems of URIs, opened through pyarrow, with short timeouts and errors that say what to do next.

pyarrow's S3FileSystem reads credentials by itself, but no endpoint from the environment or a profile: boto3 finds the
endpoint and the region, and lists page by page.
"""

from __future__ import annotations

import datetime
import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from bestiary.cluster.uris import CREDENTIALS, ENDPOINT, FILE, GS, HDFS, REGION, S3, Location
from bestiary.errors import MachineError, SourceError, UserError, import_optional
from bestiary.text import hide_passwords

EXTRA = "remote"
CONNECT_SECONDS = 5.0
SILENT_SECONDS = 10.0  # without a byte of an answer
ATTEMPTS = 2
GS_SECONDS = 30  # of all attempts together
DEFAULT_REGION = "us-east-1"  # of a server that knows no regions
OWN_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")  # endpoints that follow from the region
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")

NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|specified bucket does not exist|bucket.*NOT_FOUND", re.IGNORECASE)
REFUSED = re.compile(
    r"ACCESS_DENIED|AccessDenied|INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch"
    r"|InvalidToken|ExpiredToken|EXPIRED_TOKEN|InvalidClientTokenId|INVALID_CLIENT_TOKEN|MISSING_AUTHENTICATION_TOKEN"
    r"|AuthorizationHeaderMalformed|PERMISSION_DENIED|UNAUTHENTICATED|\b40[13]\b|Forbidden|Permission denied"
    r"|Unable to locate credentials",
    re.IGNORECASE,
)
NO_ANSWER = re.compile(
    r"NETWORK_CONNECTION|curlCode|CURL error|UNAVAILABLE|DEADLINE_EXCEEDED|Could not connect|connect timeout"
    r"|Read timeout|Connection (refused|reset|timed out|was closed)|Call to .* failed on connection|UnknownHost",
    re.IGNORECASE,
)
BAD_ENDPOINT = re.compile(r"Invalid endpoint|Custom endpoint .* was not a valid")
NO_SUPPORT = re.compile(r"libjvm|libhdfs|not built with|without support|CLASSPATH", re.IGNORECASE)


def resolve(location: Location) -> Location:
    """Return the location with the endpoint and the region in its options, so that any computer finds the same file.

    Raises UserError for an endpoint with credentials: options are written to lists of pictures.
    """
    if location.scheme != S3:
        return location
    endpoint: str = s3_client(location).meta.endpoint_url
    if "@" in urlsplit(endpoint).netloc:
        raise UserError(
            "AWS_ENDPOINT_URL, or the endpoint of the profile, has a user or a password before the host. Credentials"
            " belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in a profile."
        )
    if location.option(ENDPOINT) is None and not (urlsplit(endpoint).hostname or "").endswith(OWN_HOSTS):
        location = location.with_options(**{ENDPOINT: endpoint})
    if location.option(REGION) is None:
        location = location.with_options(**{REGION: _find_region(s3_client(location), location)})
    return location


def find_endpoint(location: Location) -> str:
    """Return what the name of a bucket or host belongs to, empty for the provider's own servers; asks no server.

    Raises MachineError for an endpoint that is no address.
    """
    if location.scheme != S3:
        return location.option(ENDPOINT) or ""
    parts = urlsplit(s3_client(location).meta.endpoint_url)
    own = next((host for host in OWN_HOSTS if (parts.hostname or "").endswith(host)), None)
    return f"{parts.hostname}:{parts.port}" if own is None else "" if own == OWN_HOSTS[0] else own


def open_file_system(location: Location) -> Any:
    """Return pyarrow's file system of a location, the same one for the same bucket or host.

    Raises MissingExtraError without pyarrow, MachineError if pyarrow cannot open this kind here.
    """
    with file_errors(location):
        return _open_file_system(location.scheme, location.host, location.user, location.options)


@functools.lru_cache(maxsize=64)
def _open_file_system(scheme: str, host: str, user: str, options: tuple[tuple[str, str], ...]) -> Any:
    fs, values = import_optional("pyarrow.fs", extra=EXTRA), dict(options)
    endpoint = {name: values[name] for name in (ENDPOINT, "scheme") if name in values}
    if scheme == FILE:
        return fs.LocalFileSystem()
    if scheme == HDFS:
        name, _, port = host.partition(":")
        return fs.HadoopFileSystem(name or "default", int(port or 0), user=user or None)
    if scheme == GS:
        limit = datetime.timedelta(seconds=GS_SECONDS)
        return fs.GcsFileSystem(anonymous=bool(user), retry_time_limit=limit, **endpoint)
    return fs.S3FileSystem(
        anonymous=bool(user),
        region=values.get(REGION, DEFAULT_REGION),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **endpoint,
    )


def s3_client(location: Location) -> Any:
    """Return boto3's client for a bucket: to list it, and to find out where it is."""
    endpoint = location.option(ENDPOINT)
    if endpoint is not None and "://" not in endpoint:
        endpoint = f"{location.option('scheme') or 'https'}://{endpoint}"
    with file_errors(location):
        if endpoint is None and location.option(REGION) is None:  # the environment decides, as it is now
            return _make_s3_client(None, None, bool(location.user))
        return _s3_client(endpoint, location.option(REGION), bool(location.user))


@functools.lru_cache(maxsize=16)
def _s3_client(endpoint: str | None, region: str | None, is_anonymous: bool) -> Any:
    return _make_s3_client(endpoint, region, is_anonymous)


def _make_s3_client(endpoint: str | None, region: str | None, is_anonymous: bool) -> Any:
    config = import_optional("botocore.config", extra=EXTRA)
    unsigned = {"signature_version": import_optional("botocore", extra=EXTRA).UNSIGNED}
    settings = config.Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=SILENT_SECONDS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        **(unsigned if is_anonymous else {}),
    )
    session = import_optional("boto3", extra=EXTRA).session.Session()
    return session.client("s3", endpoint_url=endpoint, region_name=region, config=settings)


def _find_region(client: Any, location: Location) -> str:
    """Return the region of a bucket: the server names it, even to those who may not read the bucket."""
    exceptions = import_optional("botocore.exceptions", extra=EXTRA)
    with file_errors(location):
        try:
            answer = client.head_bucket(Bucket=location.host)
        except exceptions.ClientError as error:
            answer = error.response
            if answer.get("Error", {}).get("Code") in ("404", "NoSuchBucket"):
                raise _no_bucket_error(location) from None
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region") or client.meta.region_name or DEFAULT_REGION)


@contextmanager
def file_errors(location: Location) -> Iterator[None]:
    """Raise UserError, without credentials, for what pyarrow and boto3 raise about a location.

    SourceError: it does not exist or may not be read; MachineError: nothing answers, or this kind cannot be opened.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _is_file_error(error):
            raise
        raise _explain(error, location) from None


def _is_file_error(error: Exception) -> bool:
    """Return whether an error comes from a file system; the errors of pyarrow and botocore have no common class."""
    if isinstance(error, ValueError) and BAD_ENDPOINT.search(str(error)):  # botocore has no class for it
        return True
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("pyarrow", "botocore", "boto3")


def _explain(error: Exception, location: Location) -> UserError:
    text = f"{type(error).__name__}: {error}"
    uri = location.uri
    if NO_SUPPORT.search(text):
        needs = "Hadoop's libhdfs and Java: set HADOOP_HOME, JAVA_HOME and CLASSPATH (`hadoop classpath --glob`)"
        what = needs if location.scheme == HDFS else f"a pyarrow with support for {location.scheme}://"
        return MachineError(f"{uri} cannot be opened: it needs {what}, on every node. {_first_line(text)}")
    if NO_BUCKET.search(text):
        return _no_bucket_error(location)
    if isinstance(error, FileNotFoundError):
        return no_files_error(location)
    if isinstance(error, PermissionError) or REFUSED.search(text):
        return SourceError(
            f"{uri} may not be read or written: {_first_line(text)} To give credentials,"
            f" {CREDENTIALS[location.scheme]}; on a cluster, on every node."
        )
    if BAD_ENDPOINT.search(text):
        return MachineError(
            f"{uri} cannot be opened: {_first_line(text)} Expected http://HOST:PORT or https://HOST, in"
            " AWS_ENDPOINT_URL, in AWS_ENDPOINT_URL_S3 or as endpoint_url of the profile."
        )
    if NO_ANSWER.search(text) or type(error).__name__.endswith(("ConnectionError", "TimeoutError")):
        return MachineError(
            f"Nothing answers for {uri}{_name_endpoint(location)}: {_first_line(text)} Check the network and the"
            f" {'endpoint (AWS_ENDPOINT_URL)' if location.scheme == S3 else 'address'}, then run again."
        )
    return SourceError(f"{uri} cannot be read or written: {_first_line(text)}")


def no_files_error(location: Location) -> SourceError:
    """Return the error about a URI without files."""
    pattern = "*" in location.key
    advice = (
        "Patterns are not read in URIs: give the folder."
        if pattern
        else "Check the spelling; names are case-sensitive."
    )
    return SourceError(f"There is nothing at {location.uri}. {advice}")


def _no_bucket_error(location: Location) -> SourceError:
    return SourceError(
        f"There is no bucket {location.scheme}://{location.host}{_name_endpoint(location)}. Check its name"
        f"{', the endpoint (AWS_ENDPOINT_URL) and AWS_PROFILE' if location.scheme == S3 else ''}."
    )


def _name_endpoint(location: Location) -> str:
    endpoint = location.option(ENDPOINT)
    return f" at {hide_passwords(endpoint)}" if endpoint else ""


def _first_line(text: str) -> str:
    """Return the first line of what a library says, without secrets, as a sentence."""
    line = text.strip().splitlines()[0][:300]
    for name in SECRETS:
        if secret := os.environ.get(name):
            line = line.replace(secret, "***")
    return f"{hide_passwords(line).rstrip('.')}."
