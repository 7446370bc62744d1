"""An MCP server: tools for coding agents, over a server's own HTTP API.

    evalrouter mcp                      over standard input and output, to a server's address
    http://127.0.0.1:4000/mcp           over HTTP, of the server itself

`tools.py` has the tools. Each calls the SDK (`router/client`) with the key of whoever calls it, so
that a tool can do what the key may do over HTTP, and nothing else; the list of tools is made from
what `GET /key` says. `protocol.py` makes a server of the package `mcp` of them, which is imported
nowhere else but in `http.py`, and only when a client calls.
"""
