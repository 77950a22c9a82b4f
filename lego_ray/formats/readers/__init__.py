"""What the readers of each layout demand of a file: an output is held against it before it is published.

One module a layout, and one for the servers that read PEFT's; facts only, each shown by a test in which
the real reader fails where a rule is broken.
"""
