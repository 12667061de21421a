"""The weight codec: tensors' bytes to entropy-coded streams and back, whole or as a difference to the base. Pure."""
