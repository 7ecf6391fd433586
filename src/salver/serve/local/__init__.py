"""Local testing mode: everything in one process."""
