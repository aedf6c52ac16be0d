"""The CPU runtime: a packed network becomes a plan, a plan becomes an engine. ``Session`` is the door."""
