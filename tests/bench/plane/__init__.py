"""The data plane beside others: a load generator, a segment of network namespaces, and who forwards."""
