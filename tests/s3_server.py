"""A server that speaks S3 over HTTP on this machine, for tests: moto's, with conditional requests.

Stores compare and swap in one step; moto compares, then swaps, in threads. So it answers one request at a time here.
"""

import contextlib
import logging
import os
import threading

import pytest


@contextlib.contextmanager
def bucket():
    """URL of an empty bucket, with the environment that reaches it."""
    pytest.importorskip("obstore", reason="pip install 'relscale[objects]'")
    server_of = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    import boto3

    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    answer, alone = server._server.app, threading.Lock()

    def answer_alone(environ, start_response):
        with alone:
            return answer(environ, start_response)

    server._server.app = answer_alone
    host, port = server.get_host_and_port()
    changes = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        name = f"bucket-{port}"  # clients are kept by URL, and each server has a port of its own
        boto3.client("s3", endpoint_url=changes["AWS_ENDPOINT_URL"]).create_bucket(Bucket=name)
        yield f"s3://{name}/sweep"
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        server.stop()
