"""Plugins: the hook specs, loading plugins, calling their hooks, and what plugins are given.

`usecases` and `run` call hooks through `calls`; `web.assembly` loads plugins. `hookspecs`, `context` and `toolbox` are
for authors, who import them from `bf_plugin`.
"""
