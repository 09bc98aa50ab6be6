"""What a model file is, and turning it into a `Classifier`; student networks and their files."""
