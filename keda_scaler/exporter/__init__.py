"""The exporter: an engine's and this node's GPUs' signals under one set of names.

engine.py    one engine's metrics page -> how loaded each of its models is
poll.py      reads something again and again, and forgets what is too old
families.py  what is known -> what /metrics says; the table of names
server.py    connects them, and serves
command.py   `keda-scaler exporter`
"""
