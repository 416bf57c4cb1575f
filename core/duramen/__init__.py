"""The core of Duramen: the format, its cryptography and its verification.

Modules here are pure: they take bytes, times and randomness as arguments and return values.
Only :mod:`duramen.ports` names the world outside, and only :mod:`duramen.cli` touches it.
"""
