"""Devices and processes: start-up, the mesh, agreement between processes, preemption, sampling on all devices."""
