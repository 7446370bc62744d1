"""A real OTLP collector on loopback for tests: `with collecting() as collector: ...`."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class CollectorReply(NamedTuple):
    """What a collector answers."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Collector:
    """An OTLP receiver.

    Args:
        reply: what it answers to the n-th export, from 1, of so many spans.

    Attributes:
        spans: those that it took.
        resources: theirs.
        requests: path and headers of each export, those it refused included.
        sizes: how many spans each of them had.
        posted: the bodies of other requests, by their path.
    """

    def __init__(self, reply: Callable[[int, int], CollectorReply]):
        self.spans = []
        self.resources = []
        self.requests = []
        self.sizes = []
        self.posted = {}
        self.got = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = CollectorReply()
                if self.path == "/v1/traces":
                    answer = collector.take(self.path, dict(self.headers), body, reply)
                else:
                    collector.posted.setdefault(self.path, []).append(body)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path, headers, body, reply):
        """Take an export, or refuse it."""
        message = ExportTraceServiceRequest.FromString(body)
        scopes = [scope for each in message.resource_spans for scope in each.scope_spans]
        spans = [span for scope in scopes for span in scope.spans]
        with self.got:
            self.requests.append((path, headers))
            self.sizes.append(len(spans))
            number = len(self.sizes)
            self.got.notify_all()
        answer = reply(number, len(spans))
        if answer.status == 200:
            with self.got:
                self.spans += spans
                for resource in message.resource_spans:
                    self.resources.append(values_of(resource.resource.attributes))
                self.got.notify_all()
        return answer

    def wait(self, enough):
        """Wait until it has spans that are enough; return all."""
        with self.got:
            assert self.got.wait_for(lambda: enough(self.spans), timeout=60)
            return list(self.spans)


@contextmanager
def collecting(reply: Callable[[int, int], CollectorReply] = lambda *_: CollectorReply()):
    collector = Collector(reply)
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


class Tree:
    """Spans by their names and places."""

    def __init__(self, spans):
        self.spans = spans

    def named(self, name):
        """The only span of that name."""
        [span] = self.all_named(name)
        return span

    def all_named(self, name):
        return [span for span in self.spans if span.name == name]

    def below(self, parent):
        """The spans below one, in the order they began."""
        found = [
            span
            for span in self.spans
            if (span.trace_id, span.parent_span_id) == (parent.trace_id, parent.span_id)
        ]
        return sorted(found, key=lambda span: span.start_time_unix_nano)


def scores_of(span):
    """The scores in a span's events: name to value."""
    scores = {}
    for event in span.events:
        assert event.name == "gen_ai.evaluation.result"
        values = values_of(event.attributes)
        scores[values["gen_ai.evaluation.name"]] = values.get("gen_ai.evaluation.score.value")
    return scores
