"""A client that openapi-python-client generates from `/schema` begins, follows and downloads a run.

    python tests/generated_client.py --python .venv-client/bin/python

The generator needs packages that the tests do not, so it has an environment of its own: that of
the Python that is given. `make test-client` makes it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from servers import gateway  # noqa: E402  # the path comes first

from router.gateway.key_administration import create  # noqa: E402  # likewise
from router.store.sqlite import SqliteStore  # noqa: E402  # likewise

# What a user of the generated package would write.
PROGRAM = """
import csv, io, sys
from generated import AuthenticatedClient
from generated.api.datasets import register_dataset
from generated.api.eval_ import (
    create_run, delete_run, list_log, list_runs, list_samples, rows_as_csv, rows_as_jsonl, show_run,
)
from generated.api.keys import create_key
from generated.models import (
    CreatedKey, DatasetRow, Error, Estimate, LogPage, NewKeyBody, Outcome,
    RegisterDatasetFilesBody, RegistrationBody, Run, RunDocumentBody,
)

from generated.types import File

url, key, folder = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key)

made = create_key.sync(client=client, body=NewKeyBody(name="app", budget_usd=2.5))
assert isinstance(made, CreatedKey) and made.key.role == "client", made
dataset = register_dataset.sync(
    client=client, body=RegistrationBody(source=f"{folder}/rows.jsonl", name="rows")
)
assert isinstance(dataset, DatasetRow), dataset
uploaded = register_dataset.sync(
    client=client,
    body=RegisterDatasetFilesBody(file=File(open(f"{folder}/rows.jsonl", "rb"), "up.jsonl")),
)
assert isinstance(uploaded, DatasetRow) and uploaded.name == "up", uploaded
document = RunDocumentBody(dataset="rows", routes=["baseline/echo"], metrics=["length"])
estimate = create_run.sync(client=client, body=document, dry_run=True)
assert isinstance(estimate, Estimate) and estimate.samples == 3, estimate
run = create_run.sync(client=client, body=document, key="app")
assert isinstance(run, Run) and run.key_id == made.key.id, run
events = []
with client.get_httpx_client().stream("GET", f"/eval/{run.id}/events") as answer:
    events = [line for line in answer.iter_lines() if line.startswith("event: ")]
assert events[-1] == "event: end", events
outcome = show_run.sync(run_id=run.id, client=client)
assert isinstance(outcome, Outcome) and outcome.run.state == "completed", outcome
assert outcome.report.routes[0].answered == 3
log = list_log.sync(run_id=run.id, client=client)
assert isinstance(log, LogPage) and log.data[-1].text == "completed", log
assert len(list_samples.sync(run_id=run.id, client=client).data) == 3
assert [one.id for one in list_runs.sync(client=client, dataset="rows").data] == [run.id]
# The client whose run it is.
own = AuthenticatedClient(base_url=url, token=made.secret)
table = rows_as_csv.sync(run_id=run.id, client=own)
assert len(list(csv.DictReader(io.StringIO(table)))) == 3
lines = rows_as_jsonl.sync(run_id=run.id, client=own).payload.read().splitlines()
assert len(lines) == 3
refused = delete_run.sync(run_id=run.id, client=own)
assert isinstance(refused, Error) and refused.error.code == "admin_required", refused
print("created, followed and downloaded", run.id)
"""


async def admin_key(path: Path) -> str:
    """Create the first key in a new database, and return it."""
    store = SqliteStore(path)
    await store.open()
    try:
        return (await create(store, "boss", now=0.5, role="admin"))[0]
    finally:
        await store.close()


def generate(python: Path, schema: bytes, folder: Path) -> None:
    """Write the package `generated` into a folder; fail where something is left out."""
    (folder / "schema.json").write_bytes(schema)
    command = [
        str(python.parent / "openapi-python-client"),
        *("generate", "--path", "schema.json", "--meta", "none", "--output-path", "generated"),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    # It lays out what it wrote with ruff, where there is one.
    left_out = [
        line for line in said.splitlines() if line.startswith(("WARNING", "ERROR", "Unable"))
    ]
    if done.returncode or left_out:
        raise SystemExit(f"the generated client is not whole:\n{said}")


def main() -> None:
    """Generate a client and use it; exit 1 where it does not work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", type=Path, required=True)
    python = parser.parse_args().python.absolute()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = ({"input": f"question {n}"} for n in range(3))
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        key = asyncio.run(admin_key(folder / "e.db"))
        config = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
datasets: {{roots: ["{folder}"]}}
"""
        with gateway(config) as url:
            schema = httpx.get(f"{url}/schema", headers={"authorization": f"Bearer {key}"})
            generate(python, schema.content, folder)
            (folder / "program.py").write_text(PROGRAM)
            used = [str(python), "program.py", url, key, str(folder)]
            done = subprocess.run(used, cwd=folder, check=False)
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
