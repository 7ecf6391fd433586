"""The shell around the pure control core: events in, commands out, and everything that touches the world."""
