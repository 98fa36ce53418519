"""Unit tests of proxy/core: no event loop, no network."""
