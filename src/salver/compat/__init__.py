"""Other names for Salver, so that code written for others runs unchanged."""
