"""Labelled images and pictures, from wherever they are."""
