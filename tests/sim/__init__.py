"""Deterministic simulation: whole clusters of the real core in virtual time. One seed, one run, for ever."""
