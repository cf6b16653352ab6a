"""The shell around the core: feeds events to `gateway.core`, carries its actions out. It decides nothing itself."""
