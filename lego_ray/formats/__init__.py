"""Bytes to values and back, for every layout: adapter records, files, refusals. Opens no path.

A layout is read in the module of its name (`peft`, `kohya`, `diffusers`, `mlx`) and written in its
`_writer`. `reading` chooses among them by what `layouts` makes of the keys.
"""
