"""A highly available HTCondor matchmaker behind one virtual address."""

__version__ = "0.1.0"
