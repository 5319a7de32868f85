"""Devices and processes: where arrays live."""
