"""`python -m rtlit`: the same as the `rtlit` command."""

from rtlit.commands import main

main(prog_name="rtlit")
