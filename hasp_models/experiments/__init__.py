"""The experiments of the paper on public data: Table 1 and Figures 5 to 8 (``hasp-models reproduce``)."""
