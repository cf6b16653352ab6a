"""What a host is like, gathered with deadlines, and what is wrong with it, as findings. Changes nothing."""
