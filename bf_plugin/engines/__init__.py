"""Engines talk to model providers. The driver calls them; distributions add more in the group `bf_plugin.engines`."""
