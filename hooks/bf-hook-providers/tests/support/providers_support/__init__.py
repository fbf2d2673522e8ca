"""Servers that speak the providers' protocols, what providers publish, and engines by themselves, for the tests."""
