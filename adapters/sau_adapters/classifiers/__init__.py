"""Classifiers from model files and back: recognised, described, built, saved."""
