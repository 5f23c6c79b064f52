"""The arithmetic of other programs' models, as fields of MaskRCNNConfig: one file a program.

Comes in: the name of a model, its number of classes. Goes out: a dictionary of fields. Pure numbers: no model and no
weights, which `weights/` reads under the same names. Called by the constructors of `MaskRCNNConfig`.
"""
