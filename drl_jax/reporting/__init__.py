"""What a run leaves for people: records, pictures, the progress line."""
