"""Object stores: the regions' port, and its implementations."""
