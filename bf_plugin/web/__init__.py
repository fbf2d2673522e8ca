"""HTTP in, HTTP out. The host's server calls `mount`; `assembly` is the one place where all parts meet."""
