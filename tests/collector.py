"""A real OTLP collector on loopback for tests: `with collecting() as collector: ...`."""

from __future__ import annotations

import gzip
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """An OTLP receiver: the spans it got, by name, and the headers of the requests."""

    def __init__(self):
        self.spans = []
        self.resources = []
        self.requests = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                message = ExportTraceServiceRequest.FromString(body)
                for resource in message.resource_spans:
                    collector.resources.append(values_of(resource.resource.attributes))
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                collector.requests.append((self.path, dict(self.headers)))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def collecting():
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


def values_of(attributes):
    def read(value):
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [read(one) for one in value.array_value.values]
        return getattr(value, kind)

    return {one.key: read(one.value) for one in attributes}
