"""Which replica gets a request, who waits, and what is sent again."""
