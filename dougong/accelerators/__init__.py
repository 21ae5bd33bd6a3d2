"""Kinds of device, one small file each behind one interface. Only this room imports a vendor's
module."""
