"""The playground in a real browser: answers side by side as they come, and what they become."""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from playwright.sync_api import expect
from servers import gateway
from web_pages import ATTACK, LONG, RIGHT_TO_LEFT, check_axe, check_width, sign_in

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5E"
    "rkJggg=="
)
MARKDOWN = (
    "# Title\n\n**bold** [link](javascript:alert(1))\n\n"
    f"![dot](data:image/png;base64,{{}}) {ATTACK}"
)


class Host(BaseHTTPRequestHandler):
    """Streams by the model's name; `slow` goes on when it is told to."""

    requests: list[dict]
    go_on: threading.Event

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.requests.append(body)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        deltas = {
            "markdown": [{"content": MARKDOWN.format(base64.b64encode(PIXEL).decode())}],
            "attack": [{"content": ATTACK}, {"content": RIGHT_TO_LEFT + LONG}],
            "large": [{"content": "0123456789" * 100_000}],
            "calls": [
                {
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "c",
                            "function": {"name": "weather", "arguments": '{"ci'},
                        }
                    ]
                },
                {"tool_calls": [{"index": 0, "function": {"arguments": 'ty": "Oslo"}'}}]},
            ],
        }.get(body["model"], [{"content": "One. "}, {"content": "Two."}])
        for delta in deltas:
            self._send({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            if body["model"] == "slow":
                self.go_on.wait(60)
        self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._send({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, chunk):
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"} | chunk
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    handler = type("Handler", (Host,), {"requests": [], "go_on": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield handler
    handler.go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def url(tmp_path_factory, host):
    folder = tmp_path_factory.mktemp("playground")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  baseline: {{kind: baseline}}
  host: {{kind: compatible, base_url: "{host.url}"}}
  refuses: {{kind: compatible, base_url: "http://127.0.0.1:9/v1"}}
  demo:
    kind: scripted
    script: {{prometheus: [{{answer: "Feedback: Fine <script>alert(1)</script> [RESULT] 4"}}]}}
routes: {{r: {{targets: [{{model: baseline/echo}}]}}, s: {{targets: [{{model: baseline/lead-1}}]}}}}
"""
    with gateway(config) as url:
        yield url


@pytest.fixture
def tab(chromium, url, host):
    context = chromium.new_context()
    tab = context.new_page()
    tab.complaints = []
    tab.on("console", lambda message: tab.complaints.append(message.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    host.requests.clear()
    yield tab
    context.close()


def open_with(tab, url, *routes, prompt="One. Two. Three.", **parameters):
    query = httpx.QueryParams({"route": list(routes), "prompt": prompt} | parameters)
    tab.goto(f"{url}/playground?{query}")


def column(tab, number):
    return tab.get_by_role("region", name=f"Answer {number}")


def test_several_routes_answer_side_by_side_and_one_that_fails_stops_none(tab, url, host):
    open_with(tab, url, "r", "s", "refuses/x", "host/usual", temperature="0.5", seed="7")
    tab.get_by_label("Text of the user message").focus()
    tab.keyboard.press("Control+Enter")
    expect(column(tab, 1).locator(".answer")).to_have_text("One. Two. Three.")
    expect(column(tab, 2).locator(".answer")).to_have_text("One.")
    expect(column(tab, 3).locator(".failure")).to_contain_text("Send again, or choose another")
    expect(column(tab, 4).locator(".answer")).to_have_text("One. Two.")
    facts = column(tab, 4).locator(".facts")
    expect(facts).to_contain_text("3 in, 2 out")
    expect(facts).to_contain_text("First token")
    expect(column(tab, 1).locator(".facts")).to_contain_text("Cost$0.00")
    [sent] = host.requests
    assert (sent["temperature"], sent["seed"], sent["stream"]) == (0.5, 7, True)
    assert sent["messages"] == [{"role": "user", "content": "One. Two. Three."}]
    assert [text for text in tab.complaints if "502" not in text] == []


def test_a_column_is_stopped_and_the_others_go_on(tab, url, host):
    host.go_on.clear()
    open_with(tab, url, "host/slow", "host/slow")
    tab.get_by_role("button", name="Send").click()
    for number in (1, 2):
        expect(column(tab, number).locator(".answer")).to_have_text("One. ")
    column(tab, 1).get_by_role("button", name="Stop").click()
    expect(column(tab, 1).locator(".state")).to_have_text("Stopped")
    expect(column(tab, 2).locator(".state")).to_have_text("Answering")
    # A second click stops nothing that may be charged.
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator("#form-error")).to_contain_text("Answers are still on their way.")
    expect(column(tab, 2).locator(".state")).to_have_text("Answering")
    host.go_on.set()
    expect(column(tab, 2).locator(".state")).to_have_text("Complete")
    expect(column(tab, 2).locator(".answer")).to_have_text("One. Two.")
    expect(column(tab, 1).locator(".answer")).to_have_text("One. ")
    host.go_on.clear()
    tab.get_by_role("button", name="Send").click()
    expect(column(tab, 1).locator(".state")).to_have_text("Answering")
    tab.get_by_role("button", name="Stop all").click()
    for number in (1, 2):
        expect(column(tab, number).locator(".state")).to_have_text("Stopped")
    host.go_on.set()


def test_what_was_typed_survives_a_reload_and_a_lost_server(tab, url):
    open_with(tab, url, "r", prompt="")
    tab.get_by_label("Text of the system message").fill("Be brief.")
    tab.get_by_label("Text of the user message").fill("Why? " * 100)
    tab.get_by_text("Parameters").click()
    tab.get_by_label("Top p").fill("0.9")
    tab.context.set_offline(True)
    tab.get_by_role("button", name="Send").click()
    expect(column(tab, 1).locator(".failure")).to_contain_text("What you typed is still here")
    tab.context.set_offline(False)
    expect(tab).to_have_url(re.compile(r"[?&]top_p=0\.9$"))
    for again in (tab.reload, lambda: tab.goto(f"{url}/playground")):
        again()
        expect(tab.get_by_label("Text of the system message")).to_have_value("Be brief.")
        expect(tab.get_by_label("Text of the user message")).to_have_value("Why? " * 100)
        expect(tab.locator("#top_p")).to_have_value("0.9")
        expect(tab.locator("#columns .model")).to_have_count(1)
    tab.get_by_role("button", name="Send").click()
    expect(column(tab, 1).locator(".state")).to_have_text("Complete")


def test_what_is_wrong_is_said_at_its_field(tab, url, host):
    open_with(tab, url, "r", prompt="")
    send = tab.get_by_role("button", name="Send")
    send.click()
    expect(tab.locator("#form-error")).to_have_text("Write a message first.")
    tab.get_by_label("Text of the user message").fill("hi")
    tab.get_by_text("Tools", exact=True).click()
    tab.get_by_label("Tools, as a JSON list").fill("{")
    send.click()
    expect(tab.get_by_label("Tools, as a JSON list")).to_be_focused()
    expect(tab.locator("#form-error")).to_contain_text("this is not JSON")
    tab.get_by_label("Tools, as a JSON list").fill("")
    tab.get_by_text("Parameters").click()
    tab.get_by_label("Temperature").fill("warm")
    send.click()
    expect(tab.get_by_label("Temperature")).to_have_attribute("aria-invalid", "true")
    tab.get_by_label("Temperature").fill("")
    send.click()
    expect(column(tab, 1).locator(".state")).to_have_text("Complete")
    expect(tab.locator("#form-error")).to_be_hidden()


def test_texts_of_models_are_text_and_markdown_is_clean(tab, url):
    open_with(tab, url, "host/attack", "host/markdown", "host/large", "host/calls")
    tab.get_by_role("button", name="Send").click()
    expect(column(tab, 1).locator(".answer")).to_have_text(ATTACK + RIGHT_TO_LEFT + LONG)
    expect(column(tab, 4).locator(".calls")).to_contain_text('"city": "Oslo"')
    expect(column(tab, 3).locator(".whole")).to_have_text("Show 900,000 more characters")
    second = column(tab, 2)
    second.get_by_role("button", name="Show as Markdown").click()
    expect(second.get_by_role("heading", name="Title")).to_be_visible()
    expect(second.locator("strong")).to_have_text("bold")
    expect(second.locator(".markdown img, .markdown script")).to_have_count(0)
    second.get_by_role("button", name="Show its pictures").click()
    expect(second.get_by_role("img", name="dot")).to_be_visible()
    second.get_by_role("button", name="Show as Markdown").click()
    expect(second.locator(".answer")).to_be_visible()
    column(tab, 3).get_by_role("button", name="Show as Markdown").click()
    expect(column(tab, 3).locator(".failure")).to_contain_text("100,000 characters")
    assert tab.title() != "taken"
    assert [text for text in tab.complaints if "400" not in text] == []


def test_a_picture_is_sent_with_its_message(tab, url, host):
    open_with(tab, url, "host/usual", prompt="What is it?")
    picture = tab.locator(".picture").last
    picture.set_input_files({"name": "x.txt", "mimeType": "text/plain", "buffer": b"x"})
    expect(tab.locator("#form-error")).to_have_text("x.txt is not a picture.")
    picture.set_input_files({"name": "dot.png", "mimeType": "image/png", "buffer": PIXEL})
    expect(tab.get_by_role("img", name="dot.png")).to_be_visible()
    tab.get_by_role("button", name="Send").click()
    expect(column(tab, 1).locator(".state")).to_have_text("Complete")
    [sent] = host.requests
    address = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    assert sent["messages"][0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": address}},
    ]
    assert tab.complaints == []


def test_answers_are_judged_and_a_conversation_is_kept(tab, url):
    open_with(tab, url, "r", "s")
    tab.get_by_role("button", name="Send").click()
    expect(column(tab, 2).locator(".state")).to_have_text("Complete")
    tab.get_by_label("Judge, a route or a model").fill("demo/prometheus")
    tab.get_by_role("button", name="Judge these").click()
    for number in (1, 2):
        expect(column(tab, number).locator(".verdict")).to_contain_text("helpfulness: 4")
        expect(column(tab, number).locator(".verdict")).to_contain_text("Fine <script>")
    expect(tab.get_by_role("link", name="answers of the playground")).to_be_visible()
    tab.get_by_label("Dataset").fill("kept")
    tab.get_by_label("Reference").select_option("answer 2, s")
    tab.get_by_role("button", name="Keep as sample").click()
    expect(tab.locator("#keeping-state")).to_contain_text("which has 1 row.")
    [row] = httpx.get(f"{url}/datasets/kept").json()["preview"]
    assert (row["input"], row["reference"]) == ("One. Two. Three.", "One.")
    column(tab, 2).get_by_role("button", name="Go on from here").click()
    expect(tab.get_by_label("Text of the assistant message")).to_have_value("One.")
    assert tab.complaints == []


@pytest.mark.parametrize("kind", ["light", "dark", "360 px"])
def test_the_page_passes_axe_and_fits_with_answers_on_it(chromium, url, kind):
    context = chromium.new_context(
        viewport={"width": 360 if kind == "360 px" else 1280, "height": 800},
        color_scheme="dark" if kind == "dark" else "light",
    )
    tab = context.new_page()
    open_with(tab, url, "host/markdown", "host/attack", "refuses/x", seed="1")
    tab.get_by_role("button", name="Send").click()
    expect(column(tab, 3).locator(".failure")).to_be_visible()
    expect(column(tab, 1).locator(".facts")).to_contain_text("Cost")
    column(tab, 1).get_by_role("button", name="Show as Markdown").click()
    expect(column(tab, 1).get_by_role("heading", name="Title")).to_be_visible()
    check_width(tab)
    check_axe(tab)
    context.close()


def test_a_session_sends_with_its_token_and_sees_what_it_cost(chromium, world):
    url, keys = world
    context = chromium.new_context()
    tab = context.new_page()
    sign_in(tab, url, keys["admin"])
    open_with(tab, url, "r", prompt="One. Two.")
    tab.get_by_role("button", name="Send").click()
    expect(column(tab, 1).locator(".answer")).to_have_text("One. Two.")
    expect(column(tab, 1).locator(".facts")).to_contain_text("Cost")
    column(tab, 1).get_by_role("button", name="Show as Markdown").click()
    expect(column(tab, 1).locator(".markdown p")).to_have_text("One. Two.")
    context.close()


def test_without_a_script_the_form_says_so(chromium, url):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    open_with(tab, url, "r", prompt="hi")
    expect(tab.get_by_text("so the form can only be read")).to_be_visible()
    expect(tab.get_by_label("Text of the user message")).to_have_value("hi")
    expect(tab.get_by_role("button", name="Send")).to_be_disabled()
    context.close()
