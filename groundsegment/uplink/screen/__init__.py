"""What a person sees of a flight while it flies."""
