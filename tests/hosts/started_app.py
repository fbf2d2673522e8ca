"""The bare WSGI gateway, started where it is loaded: under `preload_app`, before the fork."""

from __future__ import annotations

from wsgi_app import application

application.start()
