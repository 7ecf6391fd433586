"""What a running instance tells about itself."""
