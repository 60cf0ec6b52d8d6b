"""Other people's APIs behind our slugs: the same queue, limits, ledger and doors; only the run is somebody else's."""
