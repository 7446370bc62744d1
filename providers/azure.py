"""Azure OpenAI: OpenAI's API under a resource of one's own; the model is a deployment's name.

Two forms, by whether `api_version` is set:

    base_url: https://NAME.openai.azure.com     the v1 API: /openai/v1/chat/completions
    api_version: "2024-10-21"                   dated: /openai/deployments/MODEL/chat/completions
"""

from __future__ import annotations

from urllib.parse import quote

from providers.base import USUAL_PATHS, Call
from providers.compatible import RESPONSES
from providers.errors import ConfigError
from providers.http.transport import Transport
from providers.openai import OpenAI, OpenAIConfig


class AzureConfig(OpenAIConfig, frozen=True, kw_only=True):
    """An Azure OpenAI resource. `api_key` is sent as `api-key`.

    Attributes:
        api_version: a dated version of the API; "" means the v1 API, which has none.
        entra_token: whether `api_key` is an Entra ID token, sent as a bearer token.
    """

    api_version: str = ""
    entra_token: bool = False


class Azure(OpenAI):
    """OpenAI's models on Azure."""

    def __init__(self, name: str, config: AzureConfig, transport: Transport) -> None:
        if not config.base_url:
            raise ConfigError(
                f"providers.{name}: needs a base_url, https://NAME.openai.azure.com",
                param=f"providers.{name}.base_url",
            )
        # Of the dated versions, only some previews have responses.
        speaks = frozenset() if config.api_version else RESPONSES
        super().__init__(name, config, transport, speaks=speaks)
        if config.keeps_responses is None:
            self.keeps_responses = bool(speaks)
        self._refuses_foreign = True
        root = self._base.removesuffix("/v1").removesuffix("/openai")
        self._root = f"{root}/openai"
        self._version = config.api_version
        if not config.entra_token and config.api_key:
            del self._headers["authorization"]
            self._headers["api-key"] = config.api_key.reveal()

    def response_url(self, path: str) -> str:
        """Return the address of what is `path` below `responses/`, in the v1 API."""
        return f"{self._root}/v1/responses/{path}"

    def url(self, call: Call) -> str:
        """Return the deployment's address, or the v1 API's."""
        if not self._version:
            return f"{self._root}/v1/{call.path}"
        query = f"api-version={quote(self._version)}"
        if call.path == "models" or call.path not in USUAL_PATHS:
            return f"{self._root}/{call.path}?{query}"
        model = quote(call.model, safe="")
        return f"{self._root}/deployments/{model}/{call.path}?{query}"
