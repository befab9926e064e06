"""Find and install plugins from a signed index."""
