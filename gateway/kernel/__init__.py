"""The host's kernel: clocks, netlink, the virtual address and its announcements."""
