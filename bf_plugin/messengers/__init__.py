"""Holds the promised path `bf_plugin.messengers.port`; the code is in `bf_plugin.gateway.messengers`."""
