"""The ops: each one record in one paragraph, one file a family. With this you can do everything `ms.` offers on tensors.

Importing the package registers every op.
"""
