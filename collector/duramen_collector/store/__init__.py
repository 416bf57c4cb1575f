"""Object stores: the port (:mod:`.port`), its implementations, the choice among them (:mod:`.opening`)."""
