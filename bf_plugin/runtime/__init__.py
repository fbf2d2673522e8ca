"""What every room stands on: the event loop, worker threads, logs, ids. All rooms call it; it knows no run."""
