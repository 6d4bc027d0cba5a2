"""Checks of whole notebooks at run time: see README.md beside this file."""
