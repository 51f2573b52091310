"""All error messages and warnings of the package, read from its source."""

import ast
import dataclasses
import html
import pathlib
import re
from collections.abc import Iterator

from generators.remedies import REMEDIES

PACKAGE = pathlib.Path(__file__).parents[2] / "keras_spm"
GAP = "…"  # For a value that is known only when the message is made.
_HAS_WORDS = 8  # Letters. With fewer, a message is that of another function.
_ESCAPES = str.maketrans({mark: f"&#{ord(mark)};" for mark in "*_`[]|~$<>\\"})


@dataclasses.dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        module: of the package, such as `data.coco`.
        function: that raises it.
        kind: of the exception, or `"warning"`.
        text: with a `GAP` for each value.
    """

    module: str
    function: str
    kind: str
    text: str

    @property
    def remedy(self) -> str:
        """What to do, if the message does not say it."""
        return next((REMEDIES[start] for start in REMEDIES if start in self.text), "")


def messages() -> str:
    """Returns the list of all messages as Markdown, by module."""
    lines, module = [], None
    for message in find_messages():
        if message.module != module:
            module = message.module
            lines += ["", f"### {module}", ""]
        text = html.escape(message.text, quote=False).translate(_ESCAPES)
        lines.append(f"- <code>{text}</code> {message.kind}, `{message.function}`")
        if message.remedy:
            lines.append(f"    → {message.remedy}")
    return "\n".join(lines)


def find_messages(package: pathlib.Path = PACKAGE) -> list[Message]:
    """Returns the messages of all modules, each once per function."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        found += _of_module(module.removesuffix(".__init__"), ast.parse(path.read_text()))
    return list(dict.fromkeys(found))


def _of_module(module, tree) -> Iterator[Message]:
    texts = _Texts(tree)
    for names, function in _functions(tree):
        for node in _own_nodes(function):
            for kind, expression in _raised(node):
                for text in texts.of(expression, function):
                    if sum(letter.isalpha() for letter in text) >= _HAS_WORDS:
                        yield Message(module, ".".join(names) or "import", kind, text)


def _functions(tree, names=()):
    """Yields (names of the enclosing classes and functions, function), the module first."""
    yield names, tree
    for node in ast.walk(tree) if not names else ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and _is_child(tree, node, names):
            yield from _functions(node, (*names, node.name))


def _is_child(tree, node, names):
    return names or node in tree.body


def _own_nodes(function):
    """The nodes of a function without those of the functions and classes in it."""
    queue = list(ast.iter_child_nodes(function))
    while queue:
        node = queue.pop(0)
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node
            queue += ast.iter_child_nodes(node)


def _raised(node):
    """Yields (kind, expression of the message) of an error or warning."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        name = _name(node.exc.func)
        if name == "argument_error":
            yield "ValueError", node.exc
        elif node.exc.args and name[:1].isupper():
            yield name, node.exc.args[0]
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
        name = _name(node.value.func)
        if name.endswith("Error") and node.value.args:
            yield name, node.value.args[0]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
        yield "warning", node.args[0]


def _name(function):
    return ast.unparse(function).rpartition(".")[2]


class _Texts:
    """The texts that an expression of a module can have."""

    def __init__(self, tree: ast.Module) -> None:
        self._constants = _assigned(tree)
        self._functions = {
            node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        }

    def of(self, expression: ast.AST, function: ast.AST, depth: int = 0) -> list[str]:
        """Returns them with a `GAP` for every unknown part."""
        if isinstance(expression, ast.Constant):
            return [str(expression.value)]
        if isinstance(expression, ast.JoinedStr):
            return self._joined(expression.values, function, depth)
        if isinstance(expression, ast.FormattedValue):
            inner = expression.value
            known = isinstance(inner, (ast.IfExp, ast.Constant)) or self._is_constant(inner)
            return self.of(inner, function, depth) if known else [GAP]
        if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Add):
            return self._joined([expression.left, expression.right], function, depth)
        if isinstance(expression, ast.IfExp):
            branches = (expression.body, expression.orelse)
            return [text for each in branches for text in self.of(each, function, depth)]
        if isinstance(expression, ast.Name):
            return self._of_name(expression.id, function, depth)
        if isinstance(expression, ast.Call):
            return self._of_call(expression, function, depth)
        return [GAP]

    def _joined(self, expressions, function, depth):
        texts = [""]
        for each in expressions:
            texts = [start + end for start in texts for end in self.of(each, function, depth)]
        return [text.replace(GAP + GAP, GAP) for text in texts[:4]]

    def _is_constant(self, expression):
        values = self._constants.get(getattr(expression, "id", None), ())
        return bool(values) and all(isinstance(each, ast.Constant) for each in values)

    def _of_name(self, name, function, depth):
        values = _assigned(function).get(name) or self._constants.get(name)
        if not values or depth > 2:
            return [GAP]
        return [text for each in values[:3] for text in self.of(each, function, depth + 1)]

    def _of_call(self, call, function, depth):
        name = _name(call.func)
        if name == "argument_error":
            argument, allowed, value = call.args
            gap = ast.Constant(GAP)
            parts = ["`", argument, "` must be ", allowed, ". Received: ", argument, "=", gap]
            parts = [ast.Constant(each) if isinstance(each, str) else each for each in parts]
            return self._joined(parts, function, depth)
        if name == "format" and isinstance(call.func, ast.Attribute):
            texts = self.of(call.func.value, function, depth)
            return [re.sub(r"\{[^}]*\}", GAP, text) for text in texts]
        if name == "join" or name not in self._functions or depth > 2:
            return [GAP]
        helper = self._functions[name]
        return [
            text
            for node in _own_nodes(helper)
            if isinstance(node, ast.Return) and node.value is not None
            for text in self.of(_message_of(node.value), helper, depth + 1)
        ] or [GAP]


def _message_of(expression):
    """The message of an error that a function returns, or the text that it returns."""
    is_error = isinstance(expression, ast.Call) and _name(expression.func).endswith("Error")
    return expression.args[0] if is_error and expression.args else expression


def _assigned(function):
    """Returns {name: expressions} of the names that a function, or a module, assigns."""
    found = {}
    for node in _own_nodes(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found
