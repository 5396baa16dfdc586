"""Load tests: black box, loopback only, bounded in count and time. `python -m loadtests.run --help`."""
