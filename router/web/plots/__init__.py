"""Plots of reports as SVG, drawn on the server from the reports' own types.

    plot = score_forest(report, "rougeL")          # forest.py
    template.render(plot=plot)                     # {{ plot }}: a figure, its numbers as a table

`figure.py` has what all plots share. A plot is legible from 360 px on and prints. Its colours are
in `plots.css`, beside this folder; it has no script and no style of its own, so that a content
policy can forbid both.
"""
