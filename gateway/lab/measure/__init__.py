"""Measurements of a lab pool: a steady load, a fault, and what the pool's own logs say of it. Nothing is estimated."""
