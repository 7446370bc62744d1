"""Answers of an evaluation that take long to read are read on a thread, not on the event loop."""

import sys
import threading

import pytest
from servers import scripted

from evaluators.base import Sample
from providers.off_loop import LARGE_BYTES
from router.config.loading import parse
from router.evals.requests import EvalRequester
from router.services import Services

SIZES = {"small": 1, "large": LARGE_BYTES + 1}
READERS = {"read_completion", "_read_vectors", "settle"}


@pytest.fixture
def readers():
    """The names of the functions that have read an answer, each with whether the loop waited."""
    called = {}
    main = threading.current_thread()

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_name in READERS:
            called[frame.f_code.co_name] = threading.current_thread() is main

    # Threads that start from now on, and this one.
    threading.setprofile(watch)
    sys.setprofile(watch)
    yield called
    sys.setprofile(None)
    threading.setprofile(None)


@pytest.fixture
async def requester(tmp_path):
    models = {name: [{"answer": "x" * size}] for name, size in SIZES.items()}
    models["vectors"] = [{}]
    with scripted(models) as upstream:
        config = parse(
            f"""
storage: {{database: "sqlite:///{tmp_path}/e.db"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
""",
            "test.yaml",
            {},
        )
        async with Services(config) as services:
            yield EvalRequester(
                services.routes, services.dispatcher, services.prices, services.traffic
            )


@pytest.mark.parametrize("size", SIZES)
async def test_a_large_answer_is_read_beside_the_loop(readers, requester, size):
    sample = Sample(id="1", messages=({"role": "user", "content": "hi"},))
    prepared = requester.prepare(f"up/{size}", sample, {}, fallback=False)
    completed = await requester.ask(prepared)
    assert completed.answer.text == "x" * SIZES[size]
    on_loop = size == "small"
    assert readers == {"read_completion": on_loop, "settle": on_loop}


@pytest.mark.parametrize(("count", "on_loop"), [(1, True), (2000, False)])
async def test_many_vectors_are_read_beside_the_loop(readers, requester, count, on_loop):
    embedded = await requester.embed("up/vectors", [f"text {n}" for n in range(count)])
    assert len(embedded.vectors) == count
    assert readers == {"_read_vectors": on_loop, "settle": on_loop}
