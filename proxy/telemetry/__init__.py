"""What the proxy tells of itself: metrics and log lines. Never a token, a body, or a value of a query."""
