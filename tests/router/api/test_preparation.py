"""What the pages need is read after a server's start, before a browser asks for it."""

import asyncio
import subprocess
import sys

from router.api.preparation import PagePreparation

# A process of its own: this one has read templates for other tests.
SERVER = """
import asyncio, sys
import httpx
from router.api.page_layout import template_names
from router.app import create_app
from router.config.loading import load
from router.services import Services

opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)

def templates():
    return {name for name in template_names() if any(path.endswith(f"/{name}") for path in opened)}

async def main():
    app = create_app(Services(load()))
    started, received = asyncio.Event(), asyncio.Queue()

    async def send(message):
        started.set()

    received.put_nowait({"type": "lifespan.startup"})
    lifespan = asyncio.create_task(app({"type": "lifespan"}, received.get, send))
    await started.wait()
    tasks = [t for t in asyncio.all_tasks() if t.get_name() == "preparation of pages"]
    await asyncio.gather(*tasks)
    print(sorted(set(template_names()) - templates()))
    print({"scipy.special", "evaluators.metrics.rouge"} - set(sys.modules))
    opened.clear()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        page = await client.get("http://127.0.0.1:8000/routes", headers={"accept": "text/html"})
    print(page.status_code, "</html>" in page.text, templates())
    received.put_nowait({"type": "lifespan.shutdown"})
    await lifespan

asyncio.run(main())
"""


def test_the_first_load_of_a_page_reads_no_template_and_imports_nothing_slow(tmp_path):
    command = [sys.executable, "-c", SERVER]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["[]", "set()", "200 True set()"]


def test_a_server_that_stops_at_once_does_not_wait_for_all_of_it():
    async def stop() -> bool:
        preparation = PagePreparation()
        await preparation.open()
        await preparation.close()
        return preparation.is_complete

    assert not asyncio.run(stop())
