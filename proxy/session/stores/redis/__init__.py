"""`redis://` and its kin: one session for a fleet, on a Redis or Valkey that is alone, behind Sentinels, or a cluster.

vault: names, tags and encryption · entry: a token as bytes · scripts: what runs in Redis · wire: the protocol · servers:
which one is asked · link: its connections · failures: what went wrong, in our words · client: time-outs, and sparing a Redis
that fails · store: the store itself. Imported only when such a store is configured: `cryptography` 50 takes 7 MB.
"""
