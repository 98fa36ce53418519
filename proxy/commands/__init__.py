"""The commands, one file each; each imports only what it needs, so that it starts fast."""
