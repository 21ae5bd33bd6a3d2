"""Sections of the job file that stand by themselves."""
