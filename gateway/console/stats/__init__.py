"""The stats socket's language: HAProxy's commands and columns, answered from this node's documents. No socket here."""
