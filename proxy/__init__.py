"""cardcash-proxy: one shared CardCash session for every app that calls through it."""

__version__ = "0.1.0"
