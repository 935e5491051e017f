"""How fast mail goes: ours, its peers and the raw limits, measured side by side. `python -m benchmarks --help`.

Nothing is imported here: the contenders run in environments of their own, with little else in them.
"""
