"""Tensors in, tensors out: MSUs, clustering, reweighting, low-rank algebra.

No files, no Ray, no clock, no global random state, no configuration object.
"""
