"""What handles are made of."""
