"""What a run leaves for people: the log, curves, images, progress lines and provenance."""
