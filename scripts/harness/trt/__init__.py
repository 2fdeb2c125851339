"""Engines of TensorRT, ixRT and TensorRT-RTX: built, loaded and run through one Python API.

`library` finds the vendor's module and says how its generation differs; nothing else asks for a
version. No module here imports a vendor's at its top.
"""
