"""Starts a server of `mcp_server.py`, and is it for whoever started this: see there."""

from __future__ import annotations

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    message = json.dumps({"arguments": sys.argv[2:], "environ": dict(os.environ)})
    socket.send_fds(server, [message.encode()], [0, 1, 2])
    os.close(0)
    os.close(1)
    server.recv(1)
