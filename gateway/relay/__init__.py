"""The data plane, a process of its own: TCP and UDP from the virtual address to the elected server."""
