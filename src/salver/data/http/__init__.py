"""HTTP and WebSocket: from a client's bytes to an exchange with a replica."""
