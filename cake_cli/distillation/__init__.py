"""Training a student on what a teacher said of samples."""
