"""Built-in pktkit plugin: naive."""
