"""Config files: read, checked, written, and built into applications by a job of its own."""
