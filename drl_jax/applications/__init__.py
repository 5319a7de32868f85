"""What a trained model is for. Pure functions: they know no images and no files."""
