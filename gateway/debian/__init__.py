"""The Debian package: how it is built, and what it brings besides the program."""
