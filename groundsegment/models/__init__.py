"""Model files on the ground: read, convert and quantize releases tensor by tensor, never whole in memory."""
