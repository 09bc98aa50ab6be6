"""Samples from a teacher alone: the objective, the noise, the engine, the bank on disk."""
