"""Devices and processes: start-up, mesh, agreement, preemption, and sampling on all devices."""
