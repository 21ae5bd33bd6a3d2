"""A simulated vendor's device: what it is for, and its parts, are told in `simdev.h`."""
