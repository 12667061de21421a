"""The receiver: frames in, durable symbols and decoded objects out."""
