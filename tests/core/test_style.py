"""Rules for the library's source that linters do not check."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "supsup_jax"


def functions():
    """Yield every function of the library, with its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path.relative_to(PACKAGE).as_posix(), node


def test_no_function_has_more_than_six_positional_parameters():
    found = set()
    for path, node in functions():
        names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
        if len(names) - (names[:1] in (["self"], ["cls"])) > 6:
            found.add(f"{path}: {node.name}")
    assert found == set()


def test_no_file_of_the_library_checks_the_type_of_a_method():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                argument = ast.unparse(node.args[0])
                if argument.split(".")[-1] == "method":
                    found.append(f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}")
    assert found == []
