"""Falcon resources: HTTP in, HTTP out. `app` routes to them; they call `runs` and nothing below it."""
