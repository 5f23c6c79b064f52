"""One way from bytes to an array."""
