"""Configuration of the servers that are not ours: the upstream, and the peers as somebody who knows them would set them up.

All peers: one worker, keep-alive on both sides, no buffering to disk, no compression, an access log to a file.
"""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

#: What the upstream hands out as a token: shaped like a JWT, signed by nobody.
TOKEN = "eyJhbGciOiAiSFMyNTYifQ.eyJzaWQiOiAieCJ9.c2ln"  # noqa: S105  # no secret
SMALL, LIST, STREAM = "/v3/carts", "/v3/merchants/buy", "/v3/_stream"
SMALL_BYTES, LIST_BYTES, STREAM_BYTES = 1_000, 330_000, 100_000_000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the peers send to; with `ca`, over TLS."""

    port: int
    ca: Path | None = None

    @property
    def url(self) -> str:
        """As a URL; the name is one that the certificate has."""
        return f"https://localhost:{self.port}" if self.ca else f"http://127.0.0.1:{self.port}"


def small_json(size: int = SMALL_BYTES) -> str:
    """Make a JSON text of exactly `size` bytes."""
    bare = len(json.dumps({"cart": ""}))
    return json.dumps({"cart": "x" * (size - bare)})


def _nginx(folder: Path, *, pid: str, http: str) -> str:
    # Workers of a master that is root would be nobody, who may not read our folder.
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{pid}-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}
worker_processes 1;
daemon off;
pid {folder}/{pid}.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
{temporary}
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  default_type application/json;
{http}
}}
"""


def nginx_upstream(folder: Path, *, port: int, tls_port: int, certificate: Path) -> str:
    """Write the upstream: session, a small answer, a list, and a long stream; in plain and over TLS."""
    session = json.dumps({"access_token": TOKEN, "expiresInSeconds": 86_400})
    return _nginx(
        folder,
        pid="upstream",
        http=f"""
  access_log off;
  sendfile on;
  tcp_nopush on;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls_port} ssl backlog=4096;
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:1m;
    root {folder}/www;
    location ~ /session$ {{
      add_header authorization "{TOKEN}";
      add_header x-token-exp-seconds 86400;
      return 200 '{session}';
    }}
    location = {SMALL} {{ return 200 '{small_json()}'; }}
  }}
""",
    )


def nginx_peer(folder: Path, *, port: int, origin: Origin) -> str:
    """Write nginx as a reverse proxy."""
    tls = ""
    if origin.ca:
        tls = f"""
      proxy_ssl_server_name on;
      proxy_ssl_name localhost;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {origin.ca};"""
    return _nginx(
        folder,
        pid="peer",
        http=f"""
  access_log {folder}/nginx-access.log combined;
  upstream api {{
    server 127.0.0.1:{origin.port};
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass {"https" if origin.ca else "http"}://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_max_temp_file_size 0;{tls}
    }}
  }}
""",
    )


def haproxy_peer(*, port: int, origin: Origin) -> str:
    """Write HAProxy as a reverse proxy; its log goes to standard output, which is a file here."""
    tls = f" ssl verify required ca-file {origin.ca} verifyhost localhost sni str(localhost)" if origin.ca else ""
    return f"""global
  nbthread 1
  maxconn 4096
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
listen api
  bind 127.0.0.1:{port} backlog 4096
  http-reuse always
  server upstream 127.0.0.1:{origin.port} pool-max-conn 512{tls}
"""


def caddy_peer(folder: Path, *, port: int, origin: Origin) -> str:
    """Write a Caddyfile."""
    tls = f"tls_trusted_ca_certs {origin.ca}\n        tls_server_name localhost" if origin.ca else ""
    return f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  log {{
    output file {folder}/caddy-access.log {{
      roll_disabled
    }}
  }}
  reverse_proxy {"https" if origin.ca else "http"}://127.0.0.1:{origin.port} {{
    transport http {{
        compression off
        keepalive_idle_conns 512
        keepalive_idle_conns_per_host 512
        {tls}
    }}
  }}
}}
"""
