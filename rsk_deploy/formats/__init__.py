"""How a sparse weight is stored: one file an encoding. Each says where the kept values are; the values are stored alike.

The kept values are one flat array in row-major order of the weight, so ``dense[support(packed)] = values`` decodes all.
"""
