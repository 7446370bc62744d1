"""`hf/MODEL`: Hugging Face models on this machine, through the transformers engine of `serve/`.

The engine is a process of its own (Ray Serve) that speaks OpenAI's wire. When it does not run, the
error says how to start it.
"""

from __future__ import annotations

from providers.base import BytesReply, Call, Reply
from providers.compatible import CompatibleConfig
from providers.errors import UpstreamConnectError
from providers.http.transport import Transport
from providers.ray_serve import RayServe
from providers.translation.compose import model_list


class HuggingFace(RayServe):
    """Models by their name on the hub, served on this machine."""

    def __init__(self, name: str, config: CompatibleConfig, transport: Transport) -> None:
        super().__init__(name, config, transport)
        self._configured = bool(config.base_url)

    async def send(self, call: Call) -> Reply:
        """Send a call as to any host; the list of models is empty while the engine does not run.

        Without a `base_url` no list is fetched: another program may be at the default address.

        Raises:
            UpstreamConnectError: the engine does not run; says how to start it.
        """
        if call.path == "models" and not self._configured:
            return BytesReply(model_list(()))
        try:
            return await super().send(call)
        except UpstreamConnectError as error:
            if call.path == "models":
                return BytesReply(model_list(()))
            raise UpstreamConnectError(
                f"{error.message}. {self.name}/{call.model} needs the engine for local models: "
                "pip install 'evalrouter[ray,local]', write the model under `models:` in a config, "
                "then run: evalrouter models serve CONFIG"
            ) from error
