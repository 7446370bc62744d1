"""The Python SDK: datasets, runs and experiments of an evalrouter server.

    from router.client import Client

    with Client("http://127.0.0.1:4000") as client:
        run = client.runs.create("nightly.yaml", limit=100)
        outcome = client.runs.wait(run["id"])
        client.runs.scores(run["id"]).to_pandas()

`AsyncClient` has the same methods, awaited. To ask models, take the openai package with
`base_url="http://127.0.0.1:4000/v1"`.

What comes back are dicts, typed with the TypedDicts of `types.py`; keys that a newer server adds
are in them too. Lists are `Rows`, which pandas turns into a DataFrame. A refusal is raised as the
exception of `providers.errors` that the server itself raised: NotFoundError, ConflictError,
RunDocumentError, and so on, with its `message`, `code`, `param` and `status`. A server that is not
there is an UpstreamConnectError, one that does not answer in time an UpstreamTimeoutError.

Nothing of the server is imported: no web framework, no numpy.
"""

from router.client.asynchronous import AsyncClient
from router.client.rows import Rows
from router.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "Rows"]
