"""HTTP/1.1 without sockets and time, for both sides: heads, chunked bodies, framing."""
