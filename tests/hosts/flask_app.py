"""A Flask gateway that mounts the plugin."""

from __future__ import annotations

from flask import Flask, Response, request

from bf_plugin import mount

app = Flask(__name__)


@app.route("/hello")
def hello() -> str:
    """Stand in for the gateway's own pages."""
    return f"hello from Flask at {request.path}"


@app.post("/echo")
def echo() -> Response:
    """Answer with the request's body, so that a test sees whether it came through whole."""
    return Response(request.get_data(), mimetype="application/octet-stream")


app.wsgi_app = mount(app.wsgi_app)
