#!/bin/sh
# pyarrow 26.0.1: the environment variables AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_S3 (which wins, as in boto3) decide where
# FileSystem.from_uri("s3://…") connects to, but not where S3FileSystem() does, in the same process with the same credentials:
# that one asks Amazon. A program that offers both ways reads two different stores.
# Nothing is listened to but a socket of this computer; the address of Amazon is replaced by a proxy there, so that nothing leaves.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "pyarrow==26.0.1" >/dev/null 2>&1
"$folder/venv/bin/python" - <<'PYTHON'
import os
import socket
import threading

for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
    del os.environ[name]
os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true")
import pyarrow
from pyarrow import fs

assert pyarrow.__version__ == "26.0.1"


def listen(log):
    """Accept connections, note the first line of each, and answer that there is no such bucket."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            connection, _ = listener.accept()
            with connection:
                log.append(connection.recv(65536).split(b"\r\n")[0].decode())
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


store, proxy, special = [], [], []
store_port, proxy_port, special_port = listen(store), listen(proxy), listen(special)
os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{store_port}"
os.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{special_port}"
once = {"retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=1), "connect_timeout": 3, "request_timeout": 3}


def ask(system):
    try:
        system.get_file_info("pictures/cat.jpg")
    except OSError:
        pass


uri = "s3://pictures/cat.jpg?region=us-east-1"
ask(fs.FileSystem.from_uri(uri)[0])
counts = [len(special), len(store)]
del os.environ["AWS_ENDPOINT_URL_S3"]
ask(fs.FileSystem.from_uri(uri)[0])
counts += [len(special) - counts[0], len(store)]
os.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{special_port}"
before = len(special) + len(store)
ask(fs.S3FileSystem(region="us-east-1", proxy_options=f"http://127.0.0.1:{proxy_port}", **once))
by_constructor = len(special) + len(store) - before
print("from_uri, requests to AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL, both set:", counts[:2], "the second alone:", counts[2:])
print("S3FileSystem():", by_constructor, "requests to them; it asked the proxy for", sorted(set(proxy)))
assert counts[0] > 0 and counts[1] == 0, counts
assert counts[2] == 0 and counts[3] > 0, counts
assert by_constructor == 0
assert proxy and all("amazonaws.com" in line for line in proxy), proxy
PYTHON
echo "As described: the two ways of pyarrow ask two different stores."
