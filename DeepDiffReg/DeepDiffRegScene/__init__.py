"""Everything that touches MRML nodes: scans, maps, layers, views and landmarks between the scene and the worker.

Imports slicer, vtk and NumPy only. World is RAS here; LPS begins behind ``convert``.
"""
