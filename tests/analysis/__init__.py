"""Tests of the reasons behind a number."""
