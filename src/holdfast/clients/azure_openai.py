"""AzureOpenAIChatClient: Chat Completions of a model that is deployed at Azure.

Rule of this file: it adds what is Azure's, the credential that changes with time, and nothing else. The address is
`azure_endpoints`', the tokens are `tokens`', all that is sent and read is `ChatCompletionsClient`'s.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

from holdfast.clients.azure_endpoints import SERVICE, azure_deployment, azure_endpoint, token_scope
from holdfast.clients.environment import environment, layers
from holdfast.clients.openai_chat import ChatCompletionsClient
from holdfast.clients.openai_chat_codec import ChatCompletionsCodec
from holdfast.clients.tokens import Tokens, tokens_of
from holdfast.conversation.errors import AuthenticationError, ConfigurationError, InvalidInputError
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.ports.clients import ChatOptions, ChatRequest
from holdfast.ports.runtime import SYSTEM, Runtime

_log = logging.getLogger("holdfast.clients")


class AzureOpenAIChatClient(ChatCompletionsClient):
    """A chat client for a model that is deployed at Azure OpenAI.

        from azure.identity import AzureCliCredential     # pip install 'holdfast[azure]'

        client = AzureOpenAIChatClient(credential=AzureCliCredential())
        client = AzureOpenAIChatClient("chat", endpoint="https://NAME.openai.azure.com", api_key=key)

    What is not given comes from the environment, else from a `.env` file in the current directory (see
    `holdfast.clients.environment`):

        deployment_name   AZURE_OPENAI_CHAT_DEPLOYMENT_NAME
        endpoint          AZURE_OPENAI_ENDPOINT, https://NAME.openai.azure.com
        base_url          AZURE_OPENAI_BASE_URL, instead of endpoint: all that comes before /chat/completions
        api_version       AZURE_OPENAI_API_VERSION; a date asks the older form of the address, without one it is v1
        api_key           AZURE_OPENAI_API_KEY, if no other credential is given
        token_endpoint    AZURE_OPENAI_TOKEN_ENDPOINT, the scope of tokens; another cloud has one of its own

    `credential` is any credential of azure-identity, async or not. Its tokens are kept by the client and renewed five
    minutes before they end; one that the service refuses is replaced once. `ad_token` is one token that is sent until
    it is refused, `ad_token_provider` a function, async or not, that is asked for a token before each request.
    A client with an async credential belongs to the event loop of that credential.

    `max_tokens_field` and `include_usage` are by default what the api_version knows. The rest is as for
    OpenAIChatClient. Raises ConfigurationError for what is missing or malformed.
    """

    def __init__(
        self,
        deployment_name: str | None = None,
        *,
        endpoint: str | None = None,
        api_key: str | None = None,
        api_version: str | None = None,
        credential: object | None = None,
        ad_token: str | None = None,
        ad_token_provider: Callable[[], str | Awaitable[str]] | None = None,
        token_endpoint: str | None = None,
        base_url: str | None = None,
        max_retries: int = 2,
        connect_timeout: float = 10.0,
        read_timeout: float = 600.0,
        default_headers: Mapping[str, str] | None = None,
        instruction_role: str = "system",
        max_tokens_field: str | None = None,
        include_usage: bool | None = None,
        runtime: Runtime = SYSTEM,
    ) -> None:
        known = layers()
        environ = environment(known)
        deployment = azure_deployment(
            deployment_name, endpoint=endpoint, base_url=base_url, api_version=api_version, known=known
        )
        self._tokens = _tokens(credential, ad_token_provider, token_scope(token_endpoint, environ), runtime)
        modern = deployment.is_modern
        super().__init__(
            azure_endpoint(
                deployment,
                api_key=api_key,
                ad_token=ad_token,
                tokens=self._tokens,
                default_headers=default_headers,
                environ=environ,
            ),
            deployment.name,
            (_DeploymentCodec if deployment.is_in_address else ChatCompletionsCodec)(
                deployment.name,
                instruction_role=instruction_role,
                max_tokens_field=max_tokens_field or ("max_completion_tokens" if modern else "max_tokens"),
                include_usage=modern if include_usage is None else include_usage,
            ),
            max_retries=max_retries,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            runtime=runtime,
        )

    def ask(self, request: ChatRequest) -> AsyncGenerator[list[AgentRunResponseUpdate], None]:
        """Send the request and yield the answer: a list of updates for each read of the network."""
        asked = super().ask
        return asked(request) if self._tokens is None else self._ask_with_token(request, self._tokens)

    async def _ask_with_token(
        self, request: ChatRequest, tokens: Tokens
    ) -> AsyncGenerator[list[AgentRunResponseUpdate], None]:
        """The same with a token that is good; a kept one that is refused is replaced once.

        The transport takes the token from `tokens` when it sends.
        """
        kept = tokens.current
        token = await tokens.ready()
        while True:
            handed_on = False
            try:
                async with aclosing(super().ask(request)) as answer:
                    async for updates in answer:
                        handed_on = True
                        yield updates
                return
            except AuthenticationError as error:
                # A token that was made for this request is not replaced: the next one would be no better.
                if handed_on or error.status != 401 or kept is None or token.secret != kept.secret:
                    raise
                refused = error
            _log.info("%s: a kept token was refused (request %s); asking for another", SERVICE, refused.request_id)
            token = await tokens.after(kept)
            if token.secret == kept.secret:
                raise refused


class _DeploymentCodec(ChatCompletionsCodec):
    """The codec where the address names the deployment: what the body says of the model is not looked at there."""

    __slots__ = ()

    def tail(self, options: ChatOptions, *, stream: bool, tools: bytes = b"") -> bytes:
        if options.model is not None and options.model != self._model:
            raise InvalidInputError(
                f"This client asks the deployment {self._model!r} by its address, so that a run cannot ask "
                f"{options.model!r}. Make a client for that deployment, or use the v1 endpoint: leave api_version out."
            )
        return super().tail(options, stream=stream, tools=tools)


def _tokens(
    credential: object | None,
    provider: Callable[[], str | Awaitable[str]] | None,
    scope: str,
    runtime: Runtime,
) -> Tokens | None:
    """What hands out tokens, if it was given."""
    if credential is not None and provider is not None:
        raise ConfigurationError("Give one credential; there are ad_token_provider= and credential=.")
    if credential is not None:
        return tokens_of(credential, scope, service=SERVICE, runtime=runtime)
    if provider is None:
        return None
    if not callable(provider):
        raise ConfigurationError(f"ad_token_provider= is a function without arguments; got {type(provider).__name__}.")
    return Tokens(provider, "ad_token_provider", "Check that function.", service=SERVICE, runtime=runtime)
