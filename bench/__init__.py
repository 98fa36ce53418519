"""Measuring instruments: `make bench` (speed beside other proxies) and `make soak` (nothing grows).

Strictly from outside: processes, sockets and /proc. Nothing here imports the proxy or is shipped in its wheel.
"""
