"""HTTP in, HTTP out: what the host's server calls. `mount` is the door, `assembly` the one place where parts meet."""
