"""Reads a plot as a person does: numbers off its axes, by the texts beside the ticks."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree


def number_of(text):
    """The number that a text of a plot shows."""
    return float(text.replace("\u2212", "-").replace(",", "").rstrip("%"))


class ReadPlot:
    """The elements of a plot's picture by their class, and the axes' numbers by coordinate."""

    def __init__(self, plot):
        self.root = ElementTree.fromstring(str(plot.svg))
        self.title = self.root.find("title").text
        self.description = self.root.find("desc").text
        *_, self.width, self.height = map(float, self.root.get("viewBox").split())
        self.texts = [
            (element.get("class").removeprefix("plot-"), element.text, *self._at(element, "x", "y"))
            for element in self.root.iter("text")
        ]
        self.marks = [
            (element.get("data-shape"), *self._at(element, "data-x", "data-y"))
            for element in self.root.iter("polygon")
        ]

    @staticmethod
    def _at(element, *names):
        return tuple(float(element.get(name)) for name in names)

    def lines(self, kind):
        """The straight lines of a class: x1, y1, x2, y2."""
        return [
            self._at(element, "x1", "y1", "x2", "y2")
            for element in self.root.iter("line")
            if element.get("class") == f"plot-{kind}"
        ]

    def boxes(self, kind):
        """The rectangles of a class: x, y, width, height."""
        return [
            self._at(element, "x", "y", "width", "height")
            for element in self.root.iter("rect")
            if element.get("class") == f"plot-{kind}"
        ]

    def paths(self, kind):
        """The points of each path of a class."""
        return [
            [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]
            for element in self.root.iter("polyline")
            if element.get("class") == f"plot-{kind}"
        ]

    def across(self, x, *, log=False):
        """The number at a coordinate of the axis below the plot."""
        vertical = sorted({line[0] for line in self.lines("grid") if line[0] == line[2]})
        texts = [(x, text) for kind, text, x, y in self.texts if kind == "tick"
                 and y == self._axis_line()]  # fmt: skip
        # The texts at the ends may be moved inwards; the lines are not.
        return self._number(x, list(zip(vertical, [text for _, text in texts], strict=True)), log)

    def up(self, y):
        """The number at a coordinate of the axis left of the plot."""
        ticks = [
            (text_y - 4, text) for kind, text, x, text_y in self.texts if kind == "tick" and x == 42
        ]
        return self._number(y, ticks, log=False)

    def _axis_line(self):
        return max(y for kind, _, _, y in self.texts if kind == "tick")

    @staticmethod
    def _number(at, ticks, log):
        (first_at, first), (last_at, last) = ticks[0], ticks[-1]
        low, high = number_of(first), number_of(last)
        share = (at - first_at) / (last_at - first_at)
        if log:
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        return low + share * (high - low)


class _Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.elements = []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


def elements(plot):
    """Every element of a figure's HTML, with its attributes."""
    parser = _Elements()
    parser.feed(str(plot.__html__()))
    return parser.elements


def classes(plot):
    """Every class that a figure's HTML names."""
    return {
        name for _, attributes in elements(plot) for name in attributes.get("class", "").split()
    }


def classes_of(style):
    """Every class that a stylesheet names."""
    return set(re.findall(r"\.(plot[\w-]*)", style))
