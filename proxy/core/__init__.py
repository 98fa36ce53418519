"""Values and decisions: pure, without event loop, clock, randomness, files or logging."""
