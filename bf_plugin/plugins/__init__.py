"""Plugins: hook specs, loading them, calling them, and what they are given. `run` and `usecases` call the hooks."""
