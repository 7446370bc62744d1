"""Exits with 0 while the server in this container can take requests: `healthcheck.py [PORT]`."""

import http.client
import sys

# Within the health check's own limit.
TIMEOUT_S = 4

port = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
try:
    # Unlike urllib it knows nothing of proxies.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    connection.request("GET", "/health/ready")
    response = connection.getresponse()
    sys.stdout.write(response.read().decode() + "\n")
    sys.exit(response.status != 200)
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer at port {port}: {error}")
