"""Connections to CardCash: one attempt is sent, its answer streamed; errors say whether anything was sent.

Owns HTTP/1.1 on the wire towards the upstream (asyncio and llhttp, no library client: proxy/README.md says why).
Must not know tokens, retries, settings or callers.
"""

from proxy.core.values import Origin
from proxy.upstream.client import Upstream
from proxy.upstream.dial import tls_context
from proxy.upstream.response import Response
from proxy.upstream.tunnel import ProxyTunnel

__all__ = ["Origin", "ProxyTunnel", "Response", "Upstream", "tls_context"]
