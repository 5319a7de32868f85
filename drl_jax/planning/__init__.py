"""What a run will need on hardware that is not here: memory, operations, messages between devices, hours."""
