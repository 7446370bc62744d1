"""Take the pictures of pages that the README shows: `make screenshots` writes docs/images.

They are of a server with scripted models, traffic of several keys, and a run of the dataset that
ships: the same texts and numbers each time, but for ids, moments and durations.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

from servers import (  # noqa: E402  # of the folders above
    begun,
    client_of,
    finished,
    gateway,
    scripted,
)
from stores import in_store  # noqa: E402
from web_pages import sign_in  # noqa: E402

from router.gateway.key_administration import create  # noqa: E402
from router.gateway.limits import period_around  # noqa: E402
from router.store.keys import KeySpend  # noqa: E402
from router.store.protocol import Store  # noqa: E402

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 150_000
SIZE = {"width": 1200, "height": 750}

MODELS = {
    "large": [{"answer": "The council will vote on the new bridge in May.", "delay_s": 0.12}],
    "small": [{"answer": "A bridge.", "delay_s": 0.03}, {"answer": "A vote in May."}],
    "failing": [{"status": 500}, {"answer": "Now it works."}],
}
CONFIG = """
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  host: {{kind: compatible, base_url: "{url}", models: [large, small]}}
routes:
  summarizer:
    targets: [{{model: host/large, weight: 80}}, {{model: host/small, weight: 20}}]
    record: full
  chat: {{targets: [{{model: host/small}}], fallback: [host/large]}}
  drafts: {{targets: [{{model: host/failing}}], fallback: [host/small]}}
prices:
  host/large: {{input: 2.5, output: 10}}
  host/small: {{input: 0.15, output: 0.6}}
"""
DOCUMENT = {
    "name": "lead sentences",
    "dataset": "evalrouter:summaries",
    "routes": ["baseline/lead-3", "baseline/lead-1", "baseline/echo"],
    "baseline": "baseline/lead-1",
    "metrics": ["rouge", "length"],
    "gates": ["rougeL >= 0.1"],
}
QUESTIONS = ("Summarize the council's plan.", "What happens in May?", "Write a headline.")


class Picture(NamedTuple):
    """A picture of a page.

    Attributes:
        name: of its file.
        path: the page's.
        scheme: `light` or `dark`.
        top: what is at its upper edge; "" for the page's own top.
    """

    name: str
    path: str
    scheme: str = "light"
    top: str = ""


PICTURES = (
    Picture("home", "/"),
    Picture("run", "/runs/{run}", top="h2:has-text('What it shows')"),
    Picture("samples", "/runs/{run}/samples"),
    Picture("sample", "/runs/{run}/samples/1"),
    Picture("traffic", "/traffic"),
    Picture("routes", "/routes/summarizer"),
    Picture("keys", "/keys"),
    Picture("run-dark", "/runs/{run}", "dark", "h2:has-text('Quality, cost and time')"),
)


async def add_budgets(store: Store) -> dict[str, str]:
    """Add keys with budgets; return them by name."""
    now = time.time()
    secrets = {}
    for name, spent, fields in (
        ("admin", 0.0, {"role": "admin"}),
        ("search-team", 18.42, {"budget_usd": 25.0, "budget_period": "month", "rpm": 600}),
        ("mobile-app", 4.1, {"budget_usd": 5.0, "budget_period": "week", "parallel": 20}),
        ("nightly", 1.27, {"tpm": 200_000, "budget_usd": 50.0}),
        ("wall", 0.0, {"role": "viewer"}),
    ):
        secrets[name], row = await create(store, name, now=now, **fields)
        since, _ = period_around(row.budget_period, now)
        await store.add_key_spend([KeySpend(key_id=row.id, since=since, usd=spent)])
    return secrets


@contextmanager
def filled() -> Iterator[tuple[str, str, str]]:
    """A server with everything in it; yields its address, an administrator's key and a run."""
    with TemporaryDirectory() as name, scripted(MODELS) as upstream:
        folder = Path(name)
        secrets = in_store(folder / "e.db", add_budgets)
        with (
            gateway(CONFIG.format(folder=folder, url=upstream.url)) as url,
            client_of(url, secrets["admin"]) as http,
        ):
            run = begun(http, DOCUMENT)
            turns = itertools.product(
                ("search-team", "mobile-app", "nightly"), ("summarizer", "chat", "drafts"), range(4)
            )
            for number, (key, route, _) in enumerate(turns):
                http.post(
                    "/v1/chat/completions",
                    json={
                        "model": route,
                        "messages": [{"role": "user", "content": QUESTIONS[number % 3]}],
                    },
                    headers={"authorization": f"Bearer {secrets[key]}"},
                )
            finished(http, run)
            yield url, secrets["admin"], run


def take(tab: Page, url: str, run: str, picture: Picture) -> None:
    """Take one picture."""
    answer = tab.goto(url + picture.path.format(run=run))
    if answer is None or answer.status != 200:
        raise SystemExit(f"{picture.path}: status {answer.status if answer else 'unknown'}")
    tab.evaluate("document.fonts.ready")
    if picture.top:
        tab.locator(picture.top).first.evaluate("element => element.scrollIntoView()")
    path = IMAGES / f"{picture.name}.png"
    path.write_bytes(tab.screenshot())
    size = path.stat().st_size
    if size >= MAX_BYTES:
        raise SystemExit(f"{path.name} has {size:,} bytes, more than {MAX_BYTES:,}")
    sys.stdout.write(f"{path.relative_to(ROOT)}: {size:,} bytes\n")


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with filled() as (url, key, run), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport=SIZE, color_scheme=scheme)
            tab = context.new_page()
            sign_in(tab, url, key)
            for picture in PICTURES:
                if picture.scheme == scheme:
                    take(tab, url, run, picture)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
