"""A server that speaks S3 over HTTP on this machine, for tests: moto's, with conditional requests.

Stores compare and swap in one step; moto compares, then swaps, in threads. So it answers one request at a time here.

With a `Weather`, requests and answers get lost, late, repeated and out of order on the way.
"""

import contextlib
import io
import logging
import os
import random
import socket
import threading
import time
from collections import Counter

import pytest


class Weather:
    """A network that does to one request in so many what networks do; `seen` counts it."""

    def __init__(self, seed: int, one_in: int = 8):
        self.random, self.one_in, self.seen = random.Random(seed), one_in, Counter()

    def around(self, answer):
        """A WSGI application behind this network."""

        def through(environ, start_response):
            if self.random.randrange(self.one_in):
                return answer(environ, start_response)
            kind = self.random.choice(
                ["dropped", "answer lost", "late", "answer late", "repeated", "echo"]
            )
            self.seen[kind] += 1
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))

            def ask(start=lambda *_: None):
                return answer({**environ, "wsgi.input": io.BytesIO(body)}, start)

            if kind in ("dropped", "answer lost"):
                if kind == "answer lost":
                    ask()
                with contextlib.suppress(OSError):
                    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                start_response("503 Slow Down", [])
                return [b""]
            if kind == "late":  # others overtake it
                time.sleep(self.random.uniform(0.02, 0.3))
            if kind == "repeated":
                ask()
            if (
                kind == "echo"
            ):  # a copy that was held up on the way, and arrives when the client has gone on
                threading.Timer(self.random.uniform(0.05, 1.0), ask).start()
            got = ask(start_response)
            if kind == "answer late":
                time.sleep(self.random.uniform(0.02, 0.3))
            return got

        return through


@contextlib.contextmanager
def bucket(weather: Weather | None = None):
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

    calm = threading.Event()

    def answer_or_not(environ, start_response):
        return (answer_alone if calm.is_set() else stormy)(environ, start_response)

    stormy = weather.around(answer_alone) if weather else answer_alone
    calm.set()  # until the bucket is there
    server._server.app = answer_or_not
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
        calm.clear()
        yield f"s3://{name}/sweep"
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        server.stop()
