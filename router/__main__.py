"""`python -m router` is the same as `evalrouter`."""

from router.cli import main

main()
