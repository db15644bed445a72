"""Proxies: the way to an endpoint that the environment asks for (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY).

Rule of this file: it is asked once for each session, not for each request, and netrc files are left unread:
aiohttp's trust_env does both, and sends what it finds.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from holdfast.conversation.errors import ConfigurationError


def proxy_for(url: str) -> str | None:
    """The URL of the proxy for this address, or None if it is to be reached directly.

    Raises ConfigurationError if the environment names one that cannot be used.
    """
    parts = urlsplit(url)
    known = getproxies()
    proxy = known.get(parts.scheme) or known.get("all")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not proxy or proxy_bypass(f"{parts.hostname}:{port}"):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    usable = False
    try:
        found = urlsplit(proxy)
        usable = found.scheme in ("http", "https") and bool(found.hostname) and (found.port or 1) > 0
    except ValueError:
        pass
    if not usable:  # its address is not shown: it may hold a password
        raise ConfigurationError(
            f"The environment asks for a proxy for {parts.scheme} that cannot be used: it is no http:// address. "
            "Set HTTPS_PROXY (or HTTP_PROXY) to one, or name the host in NO_PROXY."
        )
    return proxy
