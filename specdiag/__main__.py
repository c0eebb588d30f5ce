"""`python -m specdiag`: the command line."""

from specdiag.cli.main import main

main()
