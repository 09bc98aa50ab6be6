"""What a person looks at afterwards: figures and one HTML page."""
