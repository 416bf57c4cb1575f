"""The agent: tails, chains, encrypts, spools and forwards application logs."""
