"""The files of the pages: unmodified where others wrote them, and served once for ever."""

import gzip
import hashlib
import json
import re

import brotli
import httpx
import pytest
from servers import gateway

from router.api.static_files import WEB, accepted_coding, version

VENDOR = WEB / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text())
FILES = {
    file["file"]: (package, file) for package in MANIFEST["packages"] for file in package["files"]
}


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    config = f"{{server: {{require_keys: true}}, storage: {{database: 'sqlite:///{folder}/e.db'}}}}"
    with gateway(config) as url, httpx.Client(base_url=url) as http:
        yield http


def test_the_vendored_files_are_those_of_the_manifest_and_no_others():
    assert {path.name for path in VENDOR.iterdir()} == {*FILES, "manifest.json"}
    for name, (_, file) in FILES.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == file["sha256"], name


def test_the_manifest_says_whose_the_files_are_and_has_their_licences():
    for package in MANIFEST["packages"]:
        assert package["license"] in ("0BSD", "Apache-2.0", "MIT")
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert package["source"] == f"npm package {package['name']}@{package['version']}"
        assert re.fullmatch(r"[0-9a-f]{64}", package["sha256_of_package"])
        assert any(file["file"].endswith(".LICENSE.txt") for file in package["files"])


def test_no_two_files_have_a_name():
    names = [path.name for folder in (WEB, VENDOR) for path in folder.iterdir()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("br;q=x", "identity"),
        ("identity", "identity"),
        ("", "identity"),
    ],
)
def test_the_best_coding_that_a_browser_accepts(accepts, coding):
    assert accepted_coding(accepts) == coding


def test_a_file_is_sent_compressed_and_may_be_stored_for_ever_without_a_key(http):
    body = (VENDOR / "htmx.min.js").read_bytes()
    decode = {"br": brotli.decompress, "gzip": gzip.decompress, "identity": bytes}
    tags = set()
    for coding, decoded in decode.items():
        with http.stream(
            "GET", f"/static/{version()}/htmx.min.js", headers={"accept-encoding": coding}
        ) as answer:
            sent = b"".join(answer.iter_raw())
        assert answer.status_code == 200
        assert answer.headers.get("content-encoding", "identity") == coding
        assert decoded(sent) == body
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "accept-encoding" in answer.headers["vary"]
        tags.add(answer.headers["etag"])
    assert len(tags) == 3


def test_a_file_that_the_browser_has_is_not_sent_again(http):
    path = f"/static/{version()}/uPlot.min.css"
    first = http.get(path)
    assert first.headers["content-type"] == "text/css; charset=utf-8"
    for known in (first.headers["etag"], f'"x", W/{first.headers["etag"]}'):
        again = http.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert http.get(path, headers={"if-none-match": '"x"'}).status_code == 200


def test_a_file_of_another_version_is_not_stored(http):
    answer = http.get("/static/0123456789abcdef/htmx.min.js")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")


@pytest.mark.parametrize(
    "name", ["home.html", "manifest.json", "nothing.js", "..%2F..%2Fapp.py", "%2e%2e", "vendor"]
)
def test_nothing_else_is_sent(http, name):
    answer = http.get(f"/static/{version()}/{name}")
    assert answer.status_code in (401, 404)
    assert set(answer.json()) == {"error"}
