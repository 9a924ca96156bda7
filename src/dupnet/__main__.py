"""`python -m dupnet` is `dupnet`."""

from dupnet.cli import main

main()
