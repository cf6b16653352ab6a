"""Formats: bytes to values and back. Only `Malformed` escapes a decoder."""
