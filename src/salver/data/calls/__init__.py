"""Handle calls, from the caller's side."""
