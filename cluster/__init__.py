"""Units and packs of work, running them, the artifact store with its leases, Ray actors."""
