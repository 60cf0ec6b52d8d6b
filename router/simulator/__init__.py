"""Discrete-event simulation of a fleet: production placement and cache code, simulated hosts and clock. Pure but for
reading traces and writing reports. Peers' policies stand beside ours behind one seam.
"""
