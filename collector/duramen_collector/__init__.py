"""The collector: verifies every chain, sequences tenant logs, publishes them to regions."""
