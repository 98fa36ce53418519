"""The shared token: one keeper, the calls that make a session, and the places it is stored."""
