"""Distribution: the device mesh, the sharding rules, and communication between hosts."""
