"""The gateway around us: its apps and keys, its messaging, the host app itself, and the events it is sent."""
