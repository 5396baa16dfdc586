"""The rules of the house, each a function from modules to complaints. They read source text and import nothing."""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("gateway", "runtimes", "router")
FUNCTION_LINES = 70
FILE_LINES = 500
SUPERVISOR_LINES = 200

# Third parties with one home each. A home that ends with a dot is a package.
HOMES = {
    # gateway.worker and gateway.control.process are composition roots: each starts one uvicorn server.
    "starlette": ("gateway.http.", "gateway.worker", "gateway.control.process"),
    "uvicorn": ("gateway.http.", "gateway.worker", "gateway.control.process"),
    "onnxruntime": ("runtimes.execution.session",),
    "prometheus_client": ("gateway.metrics",),
    "sqlite3": ("gateway.store.sqlite", "gateway.store.sqlitefile"),
    "redis": ("gateway.store.redis", "gateway.store.rediscluster"),
}
# The parent of the tree must not fail for what it imports; these import the standard library and each other.
BARE = (
    "gateway.supervisor",
    "gateway.lifeline",
    "gateway.seats",
    "gateway.slots",
    "gateway.drain",
    "gateway.counters",
)
# The router decides: no clock, no I/O, no randomness that is not an argument.
NOT_IN_ROUTER = frozenset(
    {"numpy", "time", "asyncio", "logging", "os", "socket", "random", "secrets", "threading", "subprocess", "pathlib"}
)
ROUTER_MAY = frozenset({"router", "msgspec"})
BANNED_IMPORTS = frozenset({"pickle", "requests", "marshal", "shelve"})
BANNED_CALLS = frozenset({"time.sleep", "eval", "exec", "asyncio.get_event_loop", "os.system"})
# What setup.py compiles, as dotted names.
COMPILED = frozenset(
    path.removesuffix(".py").replace("/", ".")
    for node in ast.parse((Path(__file__).parents[2] / "setup.py").read_text()).body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HOT_PATH"
    for path in ast.literal_eval(node.value)
)
# Classes of other modules that compiled ones may derive from; of others they lose what makes them special.
COMPILED_BASES = frozenset({"Enum", "Protocol", "ServingError", "ValueError"})
TASK_MAKERS = frozenset({"create_task", "ensure_future"})


@dataclass(frozen=True)
class Module:
    """One file.

    Attributes:
        name: dotted; a package's `__init__` has the name of the package.
    """

    name: str
    text: str
    tree: ast.Module

    @property
    def file(self) -> str:
        """As a reader finds it."""
        return self.name.replace(".", "/") + ".py"


@dataclass(frozen=True)
class Import:
    """One imported thing: `from a.b import c` is a.b and c, `import a.b` is a.b and ""."""

    module: str
    name: str
    line: int

    @property
    def top(self) -> str:
        """The distribution's or package's first name."""
        return self.module.partition(".")[0]


def module(name: str, text: str) -> Module:
    """A module of source text."""
    return Module(name, text, ast.parse(text))


def read(root: Path) -> list[Module]:
    """Every module of the three packages."""
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(module(name, path.read_text()))
    return found


def imports(tree: ast.AST) -> Iterator[Import]:
    """All imports wherever they stand, but those for type checkers alone."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        for other in tree.orelse:
            yield from imports(other)
        return
    if isinstance(tree, ast.Import):
        for alias in tree.names:
            yield Import(alias.name, "", tree.lineno)
    elif isinstance(tree, ast.ImportFrom):
        for alias in tree.names:
            yield Import("." * tree.level + (tree.module or ""), alias.name, tree.lineno)
    for child in ast.iter_child_nodes(tree):
        yield from imports(child)


def _at(home: str, name: str) -> bool:
    return name.startswith(home) if home.endswith(".") else name == home


# ---- imports ----


def layers(modules: Sequence[Module]) -> list[str]:
    """gateway may import runtimes and router; these import neither each other nor gateway. No relative imports."""
    allowed = {"gateway": set(PACKAGES), "runtimes": {"runtimes"}, "router": {"router"}}
    found = []
    for one in modules:
        own = one.name.partition(".")[0]
        for imported in imports(one.tree):
            if imported.module.startswith("."):
                found.append(f"{one.file}:{imported.line}: relative import")
            elif imported.top in PACKAGES and imported.top not in allowed[own]:
                found.append(f"{one.file}:{imported.line}: {own} imports {imported.module}")
    return found


def cycles(modules: Sequence[Module]) -> list[str]:
    """No module imports itself by way of others."""
    known = {one.name for one in modules}
    edges: dict[str, set[str]] = {one.name: set() for one in modules}
    for one in modules:
        for imported in imports(one.tree):
            inner = f"{imported.module}.{imported.name}"
            target = inner if inner in known else imported.module
            if target in known and target != one.name:
                edges[one.name].add(target)
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for target in sorted(edges[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())
    return found


def homes(modules: Sequence[Module]) -> list[str]:
    """Each of these third parties is imported in its home alone."""
    return [
        f"{one.file}:{imported.line}: {imported.top} belongs to {', '.join(HOMES[imported.top])}"
        for one in modules
        for imported in imports(one.tree)
        if imported.top in HOMES and not any(_at(home, one.name) for home in HOMES[imported.top])
    ]


def bare(modules: Sequence[Module]) -> list[str]:
    """What the supervisor runs on: the standard library and nothing of ours but its like."""
    found = []
    for one in modules:
        if one.name not in BARE:
            continue
        for imported in imports(one.tree):
            inner = f"{imported.module}.{imported.name}"
            if imported.top not in sys.stdlib_module_names and imported.module not in BARE and inner not in BARE:
                found.append(f"{one.file}:{imported.line}: imports {imported.module}")
    return found


def pure_router(modules: Sequence[Module]) -> list[str]:
    """The router has no clock, no I/O, no logging, no numpy, and of third parties msgspec alone, for its documents."""
    return [
        f"{one.file}:{imported.line}: imports {imported.module}"
        for one in modules
        if one.name.partition(".")[0] == "router"
        for imported in imports(one.tree)
        if imported.top in NOT_IN_ROUTER or imported.top not in sys.stdlib_module_names | ROUTER_MAY
    ]


# ---- what is compiled ----


def compiled(modules: Sequence[Module]) -> list[str]:
    """Interpreted classes derive from no compiled one, which would fail at import. Compiled ones derive from no other:
    a `threading.local` would be one for all threads, a frozen struct could be changed. Nothing compiled is `async`:
    frameworks would take it for a plain function."""
    found = []
    for one in modules:
        if one.name in COMPILED:
            nodes = (node for node in ast.walk(one.tree) if isinstance(node, ast.AsyncFunctionDef))
            found += [f"{one.file}:{node.lineno}: async in a compiled module" for node in nodes]
            known = {node.name for node in ast.walk(one.tree) if isinstance(node, ast.ClassDef)} | COMPILED_BASES
            known |= {imported.name for imported in imports(one.tree) if imported.module in COMPILED}
            for node in ast.walk(one.tree):
                bases = {ast.unparse(base) for base in node.bases} if isinstance(node, ast.ClassDef) else set()
                found += [f"{one.file}: compiled, and derives from {base}" for base in sorted(bases - known)]
            continue
        foreign = {imported.name for imported in imports(one.tree) if imported.module in COMPILED}
        for node in ast.walk(one.tree):
            bases = {ast.unparse(base) for base in node.bases} if isinstance(node, ast.ClassDef) else set()
            found += [f"{one.file}: {base} is compiled, and derived from" for base in sorted(bases & foreign)]
    return found


# ---- sizes ----


def sizes(modules: Sequence[Module]) -> list[str]:
    """Functions, files and the supervisor stay small."""
    found = []
    for one in modules:
        lines = len(one.text.splitlines())
        most = SUPERVISOR_LINES - 1 if one.name == "gateway.supervisor" else FILE_LINES
        if lines > most:
            found.append(f"{one.file}: {lines} lines, at most {most}")
        for node in ast.walk(one.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    found.append(f"{one.file}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}")
    return found


# ---- what is public is said and typed ----


def described(modules: Sequence[Module]) -> list[str]:
    """Every module, public class, function and method has a docstring; every function is annotated."""
    found = []
    for one in modules:
        if one.tree.body and not ast.get_docstring(one.tree):
            found.append(f"{one.file}: no docstring")
        found += [f"{one.file}:{complaint}" for complaint in _described(one.tree, public=True)]
    return found


def _described(scope: ast.Module | ast.ClassDef, *, public: bool) -> Iterator[str]:
    for node in scope.body:
        if isinstance(node, ast.ClassDef):
            shown = public and not node.name.startswith("_")
            if shown and not ast.get_docstring(node):
                yield f"{node.lineno}: class {node.name} has no docstring"
            yield from _described(node, public=shown)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if public and not node.name.startswith("_") and not ast.get_docstring(node):
                yield f"{node.lineno}: {node.name} has no docstring"
            yield from _annotated(node, method=isinstance(scope, ast.ClassDef))


def _annotated(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool) -> Iterator[str]:
    arguments = node.args
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
    every = [*arguments.posonlyargs, *arguments.args]
    every = every[1:] if method and not static else every
    every += [*arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
    for argument in every:
        if argument.annotation is None:
            yield f"{node.lineno}: {node.name}: {argument.arg} is not annotated"
    if node.returns is None:
        yield f"{node.lineno}: {node.name}: its result is not annotated"


# ---- calls ----


def banned(modules: Sequence[Module]) -> list[str]:
    """Calls and imports that have no place in a server."""
    found = []
    for one in modules:
        found += [
            f"{one.file}:{imported.line}: imports {imported.module} {imported.name}".rstrip()
            for imported in imports(one.tree)
            if imported.top in BANNED_IMPORTS or (imported.module, imported.name) == ("time", "sleep")
        ]
        for call, function in _calls(one.tree, ""):
            called = ast.unparse(call.func)
            may_print = one.name == "gateway.cli" or one.name.startswith("gateway.cli.")
            may_print = may_print or (one.name, function) == ("gateway.logs", "write")
            if called in BANNED_CALLS or (called == "print" and not may_print):
                found.append(f"{one.file}:{call.lineno}: calls {called}")
    return found


def _calls(node: ast.AST, function: str) -> Iterator[tuple[ast.Call, str]]:
    """Every call, with the name of the innermost function around it."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name
    if isinstance(node, ast.Call):
        yield node, function
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, function)


def kept_tasks(modules: Sequence[Module]) -> list[str]:
    """A task that nobody holds may be collected while it runs, and its error is seen by nobody."""
    return [
        f"{one.file}:{node.lineno}: the result of {ast.unparse(node.value.func)} is dropped"
        for one in modules
        for node in ast.walk(one.tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func).rpartition(".")[2] in TASK_MAKERS
    ]
