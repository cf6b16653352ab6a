"""The configuration language: text in, `Settings` or diagnostics out. Nothing here opens a file."""
