"""A stateful, streaming assistants endpoint for BetterForms-style WSGI gateways, extensible through pluggy hooks."""

from __future__ import annotations
