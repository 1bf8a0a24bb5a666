"""A page for every public name, made from its docstring, behind the part of the reference that has its row.

Names of other packages lead to their documentation, by a table and not by files that would be downloaded: a build needs
no network.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import naivenas_jax as nas

PARTS = Path(__file__).parents[1] / "reference"
NAMES = PARTS / "names"
ROW = re.compile(r"^\| `nas\.(\w+)` \|", re.MULTILINE)
JAX, NUMPY = "https://docs.jax.dev/en/latest/_autosummary/", "https://numpy.org/doc/stable/reference/"
LINEN, NNX = "https://flax-linen.readthedocs.io/en/latest/", "https://flax.readthedocs.io/en/latest/api_reference/"
OPTAX, PYTHON = "https://optax.readthedocs.io/en/latest/api/", "https://docs.python.org/3/library/"
ELSEWHERE = {  # as signatures and docstrings have them
    "Array": f"{JAX}jax.Array.html",
    "jax.Array": f"{JAX}jax.Array.html",
    "jax.ShapeDtypeStruct": f"{JAX}jax.ShapeDtypeStruct.html",
    "ShapeDtypeStruct": f"{JAX}jax.ShapeDtypeStruct.html",
    "np.ndarray": f"{NUMPY}generated/numpy.ndarray.html",
    "ndarray": f"{NUMPY}generated/numpy.ndarray.html",
    "numpy.ndarray": f"{NUMPY}generated/numpy.ndarray.html",
    "nn.Module": f"{LINEN}api_reference/flax.linen/module.html#flax.linen.Module",
    "flax.linen.Module": f"{LINEN}api_reference/flax.linen/module.html#flax.linen.Module",
    "flax.linen.module.Module": f"{LINEN}api_reference/flax.linen/module.html#flax.linen.Module",
    "nnx.Module": f"{NNX}flax.nnx/module.html#flax.nnx.Module",
    "flax.nnx.Module": f"{NNX}flax.nnx/module.html#flax.nnx.Module",
    "flax.nnx.module.Module": f"{NNX}flax.nnx/module.html#flax.nnx.Module",
    "flax.nnx.rnglib.Rngs": f"{NNX}flax.nnx/rnglib.html#flax.nnx.Rngs",
    "nnx.Rngs": f"{NNX}flax.nnx/rnglib.html#flax.nnx.Rngs",
    "optax.GradientTransformation": f"{OPTAX}transformations.html#optax.GradientTransformation",
    "GradientTransformation": f"{OPTAX}transformations.html#optax.GradientTransformation",
    "Path": f"{PYTHON}pathlib.html#pathlib.Path",
    "pathlib.Path": f"{PYTHON}pathlib.html#pathlib.Path",
    **{
        f"{module}{name}": f"{PYTHON}collections.abc.html#collections.abc.{name}"
        for name in ("Callable", "Mapping", "MutableMapping", "Sequence", "Iterable", "Iterator", "Hashable")
        for module in ("", "collections.abc.")
    },
    **{
        name: f"{PYTHON}stdtypes.html#{name}"
        for name in ("str", "int", "float", "tuple", "dict", "list", "set", "bool")
    },
    **{
        name: f"{PYTHON}exceptions.html#{name}"
        for name in (
            "Exception",
            "KeyError",
            "ValueError",
            "TypeError",
            "RuntimeError",
            "AttributeError",
            "AssertionError",
        )
    },
}


def rows(part: str) -> list[str]:
    """The names that a part explains, in its order."""
    return ROW.findall((PARTS / f"{part}.md").read_text(encoding="utf-8"))


def parts() -> list[str]:
    return [path.stem for path in sorted(PARTS.glob("*.md"))]


def write_names(app: Sphinx) -> None:
    """Writes the source of each page, where it is not there already."""
    NAMES.mkdir(exist_ok=True)
    wanted = {f"{name}.rst": page_of(name) for part in parts() for name in rows(part)}
    for path in NAMES.iterdir():
        if path.name not in wanted:
            path.unlink()
    for file, text in wanted.items():
        path = NAMES / file
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def page_of(name: str) -> str:
    value, title = getattr(nas, name), f"nas.{name}"
    head = f"{title}\n{'=' * len(title)}\n\n"
    if inspect.ismodule(value):
        return head + f".. automodule:: {value.__name__}\n   :members:\n"
    kind = "class" if inspect.isclass(value) else "function"
    members = "   :members:\n   :show-inheritance:\n" if kind == "class" else ""
    members += "   :inherited-members:\n" if kind == "class" and inherits(value) else ""
    return head + f".. currentmodule:: naivenas_jax\n\n.. auto{kind}:: {name}\n{members}"


def inherits(cls: type) -> bool:
    """Whether a class has methods from other classes of ours: a reader does not know these, and looks at this one."""
    bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("naivenas_jax")]
    named = {
        name for base in bases for name, value in vars(base).items() if callable(value) or isinstance(value, property)
    }
    return any(not name.startswith("_") for name in named - vars(cls).keys())


def add_names(app: Sphinx, docname: str, source: list[str]) -> None:
    """Puts the pages of its names behind a part."""
    folder, _, part = docname.rpartition("/")
    if folder == "reference" and part in parts():
        lines = "\n".join(f"nas.{name} <names/{name}>" for name in rows(part))
        source[0] += "\n\n```{toctree}\n:hidden:\n\n" + lines + "\n```\n"


def elsewhere(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """A link of a name that has no entry of its own: of another package, or an attribute of a class of ours."""
    target = node.get("reftarget", "")
    if where := ELSEWHERE.get(target):
        return nodes.reference("", "", content, internal=False, refuri=where)
    package, _, path = target.partition(".")
    owner = path.partition(".")[0]
    if package != nas.__name__ or owner not in nas.__all__:
        return None
    return make_refnode(app.builder, node["refdoc"], f"reference/names/{owner}", "", content, f"nas.{owner}")


def formulas(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Says of an indented paragraph at the beginning of a docstring that it stands as it is written."""
    sections = [number for number, line in enumerate(lines) if re.match(r"[A-Z][\w ]+:$|>>>", line)]
    text = "\n".join(lines[: sections[0]] if sections else lines)
    literal = re.sub(r"(?m)^(?<=\n\n)(?= {4}\S)", "::\n\n", text)
    lines[: sections[0] if sections else None] = literal.split("\n") if text else []


def marks(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Puts a backslash before what is no markup of reStructuredText: bars of absolute values, stars of keywords."""
    literal = False
    for number, line in enumerate(lines):
        literal = line == "::" or (literal and (not line or line.startswith(" ")))
        if not literal and ">>>" not in line:
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [re.sub(r"\||(?<![*\\\w])\*\*?(?=\w+:)", r"\\\g<0>", part) for part in parts[::2]]
            parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]  # ``nnx.Module``s
            lines[number] = "".join(parts)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_names)
    app.connect("source-read", add_names)
    app.connect("missing-reference", elsewhere)
    app.connect("autodoc-process-docstring", formulas, priority=400)  # before napoleon, which has 500
    app.connect("autodoc-process-docstring", marks, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
