"""What scripts.make_vectors is made of.

``cases/`` has the inputs, one file per family; ``witnesses/`` the implementations that give the
outputs, one file per implementation; ``files`` writes JSON and the manifest.
"""
