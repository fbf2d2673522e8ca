"""What callers ask for: start, stop, answer a tool, read, delete. `web` calls it in request threads; no HTTP here."""
