"""Messengers bring messages to the gateway. The outbox calls them; distributions add more in `bf_plugin.messengers`."""
