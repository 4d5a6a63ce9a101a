"""Wire protocols without sockets: bytes and text in, messages out; one file a protocol.

A protocol turns what a client sent into `Command`s for the server, and the events of a stream into what that client
understands. It knows neither sockets nor clocks nor threads, so it is tested by calling it.
"""
