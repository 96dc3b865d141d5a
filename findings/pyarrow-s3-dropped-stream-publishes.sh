#!/bin/sh
# pyarrow 26.0.1: an S3 output stream that is never closed, because the job that writes it failed, completes its upload when
# Python frees it. The object then has its final name and half of its rows, though nothing called close(). A `with` block does
# the same: leaving it by an exception closes the stream, and closing publishes. Whoever relies on S3's promise that an object
# appears only when its upload is complete has to write elsewhere first and copy at the end.
# The S3 server is moto 5.2.5, in a process of its own on a free port of this computer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "pyarrow==26.0.1" "moto[server]==5.2.5" "boto3==1.44.8" >/dev/null 2>&1
"$folder/venv/bin/python" - <<'PYTHON'
import gc
import os
import socket
import subprocess
import sys
import time

for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true")
import boto3
import pyarrow
from pyarrow import fs

assert pyarrow.__version__ == "26.0.1"
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="answers")
    system = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1")

    def write_without_closing():
        stream = system.open_output_stream("answers/unclosed.csv")
        stream.write(b"path,label\na.jpg,cat\n")
        raise RuntimeError("the job fails before the second row")

    def write_in_a_with_block():
        with system.open_output_stream("answers/with.csv") as stream:
            stream.write(b"path,label\na.jpg,cat\n")
            raise RuntimeError("the job fails before the second row")

    for write in (write_without_closing, write_in_a_with_block):
        try:
            write()
        except RuntimeError:
            pass
    gc.collect()
    time.sleep(1)
    found = {entry["Key"]: entry["Size"] for entry in client.list_objects_v2(Bucket="answers").get("Contents", [])}
    print("objects after both failures:", found)
    assert found == {"unclosed.csv": 21, "with.csv": 21}, found
finally:
    server.terminate()
PYTHON
echo "As described: both failed jobs left an object with their final name."
