"""The server: WebSocket, TCP and REST around a batcher. `wavlm-live serve` runs it.

The protocols are in `streamer.protocols`; here are sockets, keys, limits, and what a stream needs to outlive its
connection.
"""
