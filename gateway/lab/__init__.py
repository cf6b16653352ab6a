"""A whole pool on one machine: network namespaces, a real HTCondor, faults and measurements."""
