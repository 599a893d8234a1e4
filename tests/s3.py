"""A real S3 server on loopback (moto's), and an environment that may use it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request

BUCKET = "tuner-test"


class S3:
    """``env``: what a process needs; ``url(...)``: a place in the bucket."""

    def __init__(self, address: str):
        self.address = address
        self.env = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "key-of-tests",
            "AWS_SECRET_ACCESS_KEY": "hidden-word",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def url(self, *parts: str) -> str:
        return "/".join([f"s3://{BUCKET}", *parts])

    def client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id="key-of-tests",
            aws_secret_access_key="hidden-word",
        )

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]


@contextlib.contextmanager
def s3_server(port: int):
    """moto's server in a process of its own, with an empty bucket."""
    command = [
        sys.executable,
        "-c",
        "import sys; from moto.server import main; main(sys.argv[1:])",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    address, deadline = f"http://127.0.0.1:{port}", time.time() + 60
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None and time.time() < deadline
                time.sleep(0.1)
        server = S3(address)
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.kill()
        process.wait()
