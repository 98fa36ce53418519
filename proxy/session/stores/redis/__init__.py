"""`redis://` and its kin: one session for a fleet, on a Redis or Valkey that is alone, behind Sentinels, or a cluster.

vault: names, tags and encryption · entry: a token as bytes · scripts: what runs in Redis · servers: which one is asked ·
link: connections, time-outs and retries · failures: what went wrong, in our words · store: the store itself. Imported only
when such a store is configured: redis-py 8.1 takes 0.1 s and 7 MB to import, `cryptography` 50 another 7 MB.
"""
