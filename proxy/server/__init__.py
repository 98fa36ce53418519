"""What callers and operators reach: the proxy port, its guards, the request path, and the admin port."""
