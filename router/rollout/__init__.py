"""Rollouts: from one version to the next, step by step, or back in one.

Pure: what was seen goes in, the next status and what is to be done come out. Read `machine.py` first, then
`findings.py` (what speaks against going on) and `gates.py` (what is still waited for). Somebody else counts, loads,
writes and sends.
"""
