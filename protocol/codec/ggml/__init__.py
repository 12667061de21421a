"""The quantized blocks of GGUF files: taken apart into scales, minima and codes, and coded. Pure."""
