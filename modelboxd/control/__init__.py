"""The control socket: what modelbox-tool server asks of a running server."""
