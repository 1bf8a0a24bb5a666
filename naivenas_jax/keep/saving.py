"""`save` and `load`: a network, and trees beside it, in a directory that holds data alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import require_flag, shown
from naivenas_jax.errors import SaveError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.keep import directory
from naivenas_jax.keep.graph_codec import GraphReader, GraphWriter
from naivenas_jax.keep.tensors import from_bytes, to_bytes
from naivenas_jax.keep.trees import as_it_was, as_nested
from naivenas_jax.keep.undo_codec import Undo, read_undo, write_undo
from naivenas_jax.keep.user_models import GivenModels, NumberedModels
from naivenas_jax.keep.value_codec import Decoder, Encoder, Json, canonical
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.search.lineage.history import History
from naivenas_jax.search.lineage.history_entry import HistoryEntry
from naivenas_jax.transfer.variables import check_network, plain
from naivenas_jax.typing import PyTree, Variables
from naivenas_jax.views.view import View, Words, view
from naivenas_jax.views.viewable import Viewable


@dataclass(frozen=True, eq=False)
class Saved(Viewable):
    """What `load` has read. Unpacks to the graph and its variables.

    Attributes:
      graph: the network.
      variables: its variables, as nested dicts.
      trees: the further trees that were saved, by name, as nested dicts and lists.
      plan: the plan that was saved; None if there was none.
      history: the history that was saved; None if there was none.
      way_back: what `undo` needs; None if it was not saved.

    >>> import tempfile, jax, optax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> tx = optax.adam(0.1)
    >>> path = tempfile.mkdtemp() + "/net"
    >>> nas.save(path, graph, variables, state=tx.init(variables["params"]))
    >>> saved = nas.load(path)
    >>> again, its_variables = saved
    >>> again == graph, sorted(saved.trees), saved.plan
    (True, ['state'], None)
    >>> saved.restore("state", like=tx.init(its_variables["params"]))[0].mu["hidden"]["bias"].shape
    (4,)
    """

    graph: Graph
    variables: dict[str, PyTree] = field(repr=False)
    trees: Mapping[str, PyTree] = field(default_factory=dict, repr=False)
    plan: Plan | None = None
    history: History | None = None
    way_back: Undo | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[Any]:  # Python cannot say: a graph, then its variables
        yield self.graph
        yield self.variables

    def restore(self, name: str, like: PyTree) -> PyTree:
        """A further tree as it was: with the structure of another one.

        For an example see `Saved`.

        Args:
          name: the name under which it was saved.
          like: a tree of the structure that it had, such as ``tx.init(params)``: arrays, or their shapes. Its values do
            not matter. An array comes to lie where the one in ``like`` lies.

        Returns:
          A tree with the structure of ``like`` and the leaves that were saved.

        Raises:
          SaveError: if there is no tree of that name, or ``like`` has another structure, shape or dtype somewhere,
            which is named.
        """
        if not isinstance(name, str) or name not in self.trees:
            known = ", ".join(map(repr, self.trees)) or "none"
            raise SaveError(f"There is no tree {shown(name)} in the save. There are: {known}.")
        return as_it_was(self.trees[name], like, name)

    def undo(self, variables: Variables | None = None) -> tuple[Graph, dict[str, PyTree]]:
        """Go back to the network before the mutation that was saved, as `Mutation.undo` does.

        Args:
          variables: of the saved network, trained further or not; where not given, those that were saved.

        Returns:
          The graph before, and its variables as nested dicts: entries that were kept have the values that they have in
          ``variables``, entries that were dropped have those that they had when they were dropped.

        Raises:
          SaveError: if the save does not have what it takes.
          VariablesError: if the variables are not those of the saved network.

        >>> import tempfile, jax, flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
        >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
        >>> path = tempfile.mkdtemp() + "/net"
        >>> nas.save(path, nas.delta_nout(graph, variables, {"hidden": -1}), undo=True)
        >>> before, its_variables = nas.load(path).undo()
        >>> before == graph, its_variables["params"]["hidden"]["bias"].shape
        (True, (4,))
        """
        if self.way_back is None:
            raise SaveError(
                "The save has no way back: what a mutation removes is saved along only with "
                "nas.save(path, mutation, undo=True)."
            )
        return self.way_back(self.variables if variables is None else variables)


@view.register
def saved_view(saved: Saved) -> View:
    """The network, and what was saved beside it."""
    beside = [f"tree {name!r}" for name in saved.trees]
    held = {"plan": saved.plan, "history": saved.history, "the way back": saved.way_back}
    beside += [name for name, each in held.items() if each is not None]
    return Words((f"saved with {', '.join(beside) or 'nothing else'}",)), *view(saved.graph)


def save(
    path: str | os.PathLike[str],
    graph: Graph | Mutation,
    variables: Variables | None = None,
    *,
    plan: Plan | None = None,
    history: History | None = None,
    undo: bool = False,
    overwrite: bool = False,
    **trees: PyTree,
) -> None:
    """Save a network in a directory: arrays in the safetensors format, all else as JSON. No pickle, and no code.

    The directory is written as a whole: under a temporary name beside ``path``, which is renamed when it is complete.
    Functions are saved by name (see `register_function`), layers by their class and configuration. Of an imported
    network the model is not saved, but what it was imported with, and the edits and sizes since; whoever loads it gives
    the model again, or the models if the networks of a history were imported from several. What is written is read
    again at once, and refused if it would be another network.

    Args:
      path: of the directory, taken as it is. Folders above it are made.
      graph: the network; or a mutation, whose graph, variables and plan are saved.
      variables: its variables. They come back as nested dicts. May be left out for a mutation.
      plan: a plan that is saved along, by default that of the mutation.
      history: a history that is saved along, with the networks that it holds.
      undo: of a mutation, whether the network before and the entries that were removed are saved, for `Saved.undo`.
      overwrite: whether a save that is there already is replaced. Nothing else ever is.
      **trees: further trees of arrays and numbers: the state of an optimizer, averages, masks, keys.

    Raises:
      SaveError: if something cannot be saved, which is named, or the path exists.
      GraphError, VariablesError: if ``graph`` is no graph, or the variables are not its own.

    >>> import tempfile, jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    >>> mutation = nas.delta_nout(graph, graph.init(jax.random.key(0), jax.numpy.ones((1, 3))), {"hidden": -1})
    >>> path = tempfile.mkdtemp() + "/net"
    >>> nas.save(path, mutation)
    >>> nas.load(path).plan == mutation.plan
    True
    """
    place = _path(path)
    require_flag(overwrite, "overwrite", SaveError)
    mutation = graph if isinstance(graph, Mutation) else None
    if require_flag(undo, "undo", SaveError) and mutation is None:
        raise SaveError(f"undo=True is for a mutation, which knows the network before; found {type(graph).__name__}.")
    if isinstance(graph, Mutation):
        plan = graph.plan if plan is None else plan
        variables = graph.variables if variables is None else variables
        graph = graph.graph
    if plan is not None and not isinstance(plan, Plan):
        raise SaveError(f"plan takes a nas.Plan, such as mutation.plan; found {shown(plan)}.")
    if history is not None and not isinstance(history, History):
        raise SaveError(f"history takes a nas.History; found {shown(history)}.")
    check_network(graph, variables)
    saving = _Saving()
    structure: dict[str, Json] = {"graph": saving.graph(graph, "graph")}
    structure["plan"] = None if plan is None else json.loads(plan.to_json())
    structure["versions"] = _versions()
    structure["history"] = None if history is None else json.loads(history.to_json())
    structure["networks"] = [
        [entry.name, saving.network(entry, number)]
        for number, entry in enumerate(each for each in history or () if each.network is not None)
    ]
    structure["undo"] = saving.way_back(mutation, variables) if mutation is not None and undo else None
    structure["variables"] = saving.tree(plain(variables), "variables", "variables")
    for name in trees:
        if not (name.isidentifier() and name.isascii()):
            raise SaveError(f"A tree is saved under a name such as 'state' or 'averages'; found {name!r:.80}.")
    structure["trees"] = {name: saving.tree(tree, name, f"tree.{name}") for name, tree in trees.items()}
    directory.write(place, {**saving.files, directory.STRUCTURE: canonical(structure).encode()}, overwrite)


@dataclass
class _Saving:
    """The files of arrays that a save makes, and the models that its networks were imported from.

    Attributes:
      files: by name.
      models: the models of the user.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    models: NumberedModels = field(default_factory=NumberedModels)

    def graph(self, graph: Graph, file: str) -> Json:
        """A graph as JSON."""
        writer = GraphWriter(Encoder(), self.models)
        written = writer.graph(graph)
        self._check_again(graph, writer, written)
        self._put(file, writer.encoder)
        return written

    def network(self, entry: HistoryEntry, number: int) -> Json:
        """A network that a history holds as JSON."""
        assert entry.network is not None
        graph, variables = entry.network
        writer = GraphWriter(Encoder(), self.models)
        written = writer.graph(graph)
        self._check_again(graph, writer, written)
        writer.encoder.where = f"{entry.name!r} of the history"
        values = writer.encoder.value(as_nested(plain(variables)))
        self._put(f"network.{number}", writer.encoder)
        return {"graph": written, "variables": values}

    def way_back(self, mutation: Mutation, variables: Variables | None) -> Json:
        """What it takes to undo a mutation as JSON."""
        writer = GraphWriter(Encoder(), self.models)
        written = write_undo(writer, mutation.before, mutation.undo_records)
        self._check_again(mutation.before, writer, written["before"])
        reader = GraphReader(Decoder(writer.encoder.arrays), known=iter(writer.models))
        read_undo(reader, written)(plain(variables))
        self._put("undo", writer.encoder)
        return written

    def tree(self, tree: PyTree, name: str, file: str) -> Json:
        """A tree as JSON."""
        encoder = Encoder(where=f"The tree {name!r}")
        written = encoder.value(as_nested(tree))
        self._put(file, encoder)
        return written

    def _put(self, file: str, encoder: Encoder) -> None:
        self.files[f"{file}.safetensors"] = to_bytes(encoder.arrays)

    def _check_again(self, graph: Graph, writer: GraphWriter, written: Any) -> None:
        """Raise unless a graph that was written is read as what it was."""
        try:
            again = GraphReader(Decoder(writer.encoder.arrays), known=iter(writer.models)).graph(written)
        except SaveError:
            raise
        except Exception as error:
            raise SaveError(f"The network cannot be saved: read again, {error!s:.300}") from error
        if again != graph:
            both = zip(again.vertices, graph.vertices, strict=True)
            other = next((own.name for made, own in both if made.op != own.op), "the signature")
            raise SaveError(
                f"The network cannot be saved: what would be read again differs at {other!r}. This is a bug."
            )


def load(path: str | os.PathLike[str], *, model: object = None) -> Saved:
    """Load what `save` has written, if nothing of it has been changed.

    No code of the files is run, and nothing is imported for them: functions and layers are found by name among those of
    JAX and Flax and those that are registered. Every file has to be what its hash in the manifest says, and the
    variables have to fit the graph.

    Args:
      path: of the directory, taken as it is.
      model: for an imported network the model as it was at the import: the linen module, the nnx model (its values do
        not matter), or the function. It is traced again, and the edits and sizes since are carried out on it. Where the
        networks of the save were imported from several models a list of these: that of the network first, then those of
        the networks of the history, in its order.

    Returns:
      A `Saved`, which unpacks to the graph and its variables. Arrays lie on the default device.

    Raises:
      SaveError: if a file is missing or has been changed, a function or layer is not known, or the model is another
        one.

    >>> import tempfile, jax, flax.linen as nn, naivenas_jax as nas
    >>> model, x = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)]), jax.numpy.ones((1, 3))
    >>> graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    >>> path = tempfile.mkdtemp() + "/net"
    >>> nas.save(path, nas.delta_nout(graph, variables, {"layers_0": -3}))
    >>> smaller, its_variables = nas.load(path, model=model)
    >>> smaller.apply(its_variables, x).shape, its_variables["params"]["layers_0"]["kernel"].shape
    ((1, 2), (3, 5))
    """
    place = _path(path)
    files = directory.read(place)
    try:
        return _read(files, GivenModels.of(model))
    except SaveError:
        raise
    except Exception as error:  # whatever is raised for data that no save would write
        raise SaveError(f"{place} cannot be loaded: {error!s:.300}{_saved_with(files)}") from error


#: The libraries whose layers and functions a save names.
_LIBRARIES = ("naivenas_jax", "flax", "jax")


def _versions() -> dict[str, Json]:
    return {name: metadata.version(name) for name in _LIBRARIES}


def _saved_with(files: Mapping[str, bytes]) -> str:
    """With which versions a network was saved, where they are others than here, in words."""
    try:
        then = dict(json.loads(files[directory.STRUCTURE])["versions"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    others = [f"{name} {was}, here {now}" for name, now in _versions().items() if (was := then.get(name)) != now]
    return f" It was saved with {'; '.join(map(str, others)):.200}." if others else ""


def _read(files: Mapping[str, bytes], given: GivenModels) -> Saved:
    structure = directory.as_json(files[directory.STRUCTURE])
    graph = GraphReader(Decoder(_arrays(files, "graph.safetensors")), given).graph(structure["graph"])
    variables = _tree(structure["variables"], files, "variables.safetensors")
    check_network(graph, variables)
    trees = {str(name): _tree(data, files, f"tree.{name}.safetensors") for name, data in structure["trees"].items()}
    plan = None if structure["plan"] is None else Plan.from_json(json.dumps(structure["plan"]))
    history, way_back = _history(structure, files, given), _way_back(structure, files, given)
    given.check_all_asked()
    return Saved(graph, variables, trees, plan, history, way_back)


def _way_back(structure: Mapping[str, Any], files: Mapping[str, bytes], given: GivenModels) -> Undo | None:
    """What it takes to go back to the network before a mutation, if it was saved. That it fits has been tried."""
    if structure.get("undo") is None:
        return None
    undo = read_undo(GraphReader(Decoder(_arrays(files, "undo.safetensors")), given), structure["undo"])
    undo(_tree(structure["variables"], files, "variables.safetensors"))
    return undo


def _history(structure: Mapping[str, Any], files: Mapping[str, bytes], given: GivenModels) -> History | None:
    """The history that was saved, with the networks that it held."""
    if structure["history"] is None:
        return None
    entries = dict(History.from_json(json.dumps(structure["history"])).entries)
    for number, (name, data) in enumerate(structure["networks"]):
        decoder = Decoder(_arrays(files, f"network.{number}.safetensors"))
        network = GraphReader(decoder, given).graph(data["graph"]), decoder.value(data["variables"])
        check_network(*network)
        entries[name] = replace(entries[name], network=network)
    return History(entries)


def _tree(data: Json, files: Mapping[str, bytes], file: str) -> Any:
    return Decoder(_arrays(files, file)).value(data)


def _arrays(files: Mapping[str, bytes], file: str) -> dict[str, np.ndarray]:
    if file not in files:
        raise SaveError(f"The manifest names no {file}.")
    return from_bytes(files[file], file)


def _path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise SaveError(f"path is that of a directory, a text or a pathlib.Path; found {shown(path)}.")
    return Path(path)
