"""Ops with several implementations. A folder holds one op: API, reference and fast versions."""
