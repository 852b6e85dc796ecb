"""The artifact store: in a folder or behind a URL, with a lease on work."""
