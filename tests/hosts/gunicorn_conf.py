"""How gunicorn serves a gateway with the plugin: threads, loaded before the fork, started in each worker."""

from __future__ import annotations

import gc

bind = "127.0.0.1:0"
worker_class = "gthread"
threads = 8
preload_app = True
control_socket_disable = True  # since gunicorn 25: no socket in the home directory


def post_worker_init(worker):
    """Start the plugin when a worker boots, not with its first request."""
    worker.wsgi.start()
    gc.freeze()  # what is loaded by now need not be looked through again and again


def worker_exit(server, worker):
    """Hand the runs of a worker over when it ends."""
    worker.wsgi.close()
