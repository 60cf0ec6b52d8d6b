"""The pages a marketplace's team looks at: usage, half-life, customers, launches, the fleet. Reads rollups, writes nothing.

`static/uplot.*` is uPlot 1.6.32 from npm, unchanged, under the MIT licence beside it.
"""
