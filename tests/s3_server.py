"""An S3-compatible server on this computer, at a free port: moto's, with buckets in memory."""

from __future__ import annotations

import logging
import os
import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

SECRET = "a-secret-of-the-test"
KEY = "AKIATESTKEYOFTHETEST"


@dataclass(frozen=True)
class S3Server:
    """A running server. client: of boto3, for the owner of every bucket."""

    url: str
    client: Any

    def make_bucket(self, **objects: bytes) -> str:
        """Return the name of a new bucket with these objects."""
        name = f"bucket-{secrets.token_hex(4)}"
        self.client.create_bucket(Bucket=name)
        for key, content in objects.items():
            self.put(name, key, content)
        return name

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def get(self, bucket: str, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def keys(self, bucket: str) -> list[str]:
        """The names of the objects that anyone can see."""
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=bucket).get("Contents", ())]

    @contextmanager
    def checked_rights(self) -> Iterator[None]:
        """Let the server check rights: the keys of the tests have none."""
        self._post("0")
        try:
            yield
        finally:
            self._post("inf")

    def _post(self, count: str) -> None:
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", data=count.encode(), headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def start_s3() -> Iterator[S3Server]:
    """Start a server; the environment has its address and keys, and nothing is asked of the network."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("pyarrow")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_ENDPOINT_URL", url)
        try:
            yield S3Server(url, boto3.client("s3", endpoint_url=url, region_name="us-east-1"))
        finally:
            server.stop()
