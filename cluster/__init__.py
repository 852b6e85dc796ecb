"""Where work runs: units and packs of work, the artifact store, leases, Ray actors."""
