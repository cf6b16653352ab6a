"""Decisions. Events in, actions out; no socket, no clock, no randomness of its own."""
