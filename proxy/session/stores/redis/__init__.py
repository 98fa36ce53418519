"""`redis://` and its kin: one session for a fleet, on a Redis or Valkey that is alone, behind Sentinels, or a cluster.

place: where it is and who we are there · connection: its protocol · servers: which one is asked · scripts: what runs in it ·
client: time-outs, and sparing a Redis that fails · diagnosis: what went wrong, in our words · vault: names, tags and
encryption · entry: what is encrypted · store: the store itself. Imported only when such a store is configured:
`cryptography` 50 takes 7 MB.
"""
