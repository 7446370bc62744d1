"""Makes mutants of a module's source with mutmut's operators.

mutmut's own runner is not used: it makes no mutants outside functions (half of some modules here is
regular expressions), cannot draw some with a seed, and keeps its results in the working tree.
"""

from __future__ import annotations

import difflib
import random
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper
from mutmut.mutation.file_mutation import Mutation, MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

# Aliases of types and their variables: no code runs differently for them.
_TYPE = m.Subscript() | m.Call(func=m.Name("TypeVar")) | m.BinaryOperation(operator=m.BitOr())


class Mutant(NamedTuple):
    """A changed source.

    Attributes:
        source: the whole module.
        change: the lines that differ, without their indentation, each after `- ` or `+ `.
        diff: the same for people, with context.
    """

    source: str
    change: str
    diff: str


def drawn(path: str, source: str, *, count: int, seed: int) -> tuple[list[Mutant], int]:
    """Return some mutants of a source, the same for a seed, and how many mutations there are.

    Where there are no more than `count`, that is all of them.
    """
    visitor = MutationVisitor(mutation_operators, IgnoredCode(set(), set(), set()))
    module = MetadataWrapper(cst.parse_module(source)).visit(visitor)
    codes = [module.code_for_node(statement) for statement in module.body]
    number_of = _statements(module)
    mutations = [one for one in visitor.mutations if id(one.original_node) in number_of]
    random.Random(seed).shuffle(mutations)
    # Before and after the statements: comments, and the end of the file.
    head, tail = source.split("".join(codes))
    mutants: dict[str, Mutant] = {}
    for mutation in mutations:
        if len(mutants) == count:
            break
        number = number_of[id(mutation.original_node)]
        code = _apply(module, module.body[number], mutation)
        changed = "".join([head, *codes[:number], code, *codes[number + 1 :], tail])
        if changed != source and _compiles(changed):
            mutants[changed] = _mutant(path, source, changed)
    return list(mutants.values()), len(mutations)


def _apply(module: cst.Module, statement: cst.CSTNode, mutation: Mutation) -> str:
    changed = statement.deep_replace(mutation.original_node, mutation.mutated_node)
    assert isinstance(changed, cst.CSTNode)
    return module.code_for_node(changed)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def _statements(module: cst.Module) -> dict[int, int]:
    """Return the number of the statement that each node is in, but for those of types only."""
    aliases = m.SimpleStatementLine(body=[m.Assign(value=_TYPE) | m.AnnAssign(value=_TYPE)])
    return {
        id(node): number
        for number, statement in enumerate(module.body)
        if not m.matches(statement, aliases)
        for node in _nodes(statement)
    }


def _nodes(node: cst.CSTNode) -> list[cst.CSTNode]:
    return [node, *(inner for child in node.children for inner in _nodes(child))]


def _mutant(path: str, source: str, changed: str) -> Mutant:
    before, after = source.splitlines(), changed.splitlines()
    lines = list(difflib.unified_diff(before, after, path, path, lineterm="", n=1))
    change = "\n".join(
        f"{line[0]} {line[1:].strip()}"
        for line in lines
        if line[0] in "+-" and not line.startswith(("+++", "---"))
    )
    return Mutant(changed, change, "\n".join(lines[2:]))
