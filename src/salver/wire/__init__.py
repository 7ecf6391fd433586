"""The protocol between our processes, without I/O: frames, messages, payloads, routing snapshots."""
