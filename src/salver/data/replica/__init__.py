"""The replica: slots, user code, and requests in it."""
