"""What a user asks: the Python API and the commands call this and nothing deeper."""
