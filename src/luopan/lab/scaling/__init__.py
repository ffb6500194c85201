"""Scaling laws of one's own: a family of small trainings, a fit with intervals, a prediction put to the test."""
