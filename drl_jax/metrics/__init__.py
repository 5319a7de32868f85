"""Numbers that judge samples."""
