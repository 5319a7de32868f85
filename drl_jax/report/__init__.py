"""What a run leaves for people: records, images, the progress line."""
