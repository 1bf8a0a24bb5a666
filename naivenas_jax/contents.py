"""The table of contents: `__all__` has every public name, in the order of a day's work."""

from importlib.metadata import version as _version

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.align.problem.request import relaxed, to
from naivenas_jax.cost.costs import Costs, costs
from naivenas_jax.cost.latency import LatencyTable
from naivenas_jax.cost.programs import CompiledPrograms, count_programs
from naivenas_jax.cost.timing import measure_latency
from naivenas_jax.door import open_doors as _open_doors
from naivenas_jax.errors import (
    ArgumentError,
    BudgetError,
    CarryError,
    DuplicateNameError,
    GraphError,
    ImmutableError,
    InfeasibleError,
    InternalError,
    NaiveNASError,
    NoMutationError,
    OracleError,
    PlanError,
    RebuildError,
    RequestError,
    SaveError,
    SizeMismatchError,
    SolverError,
    StructureError,
    TimeLimitError,
    TooSmallError,
    UnknownNameError,
    UnregisteredLayerError,
    UtilityError,
    VariablesError,
)
from naivenas_jax.fit.compensate import compensate
from naivenas_jax.fit.compress import compress
from naivenas_jax.fit.frontier import frontier
from naivenas_jax.fit.frontier_points import Frontier, FrontierPoint
from naivenas_jax.fit.recalibrate import recalibrate
from naivenas_jax.fit.refine import refine
from naivenas_jax.graph.graph import Graph, apply
from naivenas_jax.graph.queries.graph_summary import Summary
from naivenas_jax.graph.queries.handles import Handle
from naivenas_jax.graph.source import input_vertex
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.custom import absorb_vertex
from naivenas_jax.graph.vertices.function import immutable_vertex, invariant_vertex
from naivenas_jax.graph.vertices.stack import concat, flatten
from naivenas_jax.keep.known_names import register_function
from naivenas_jax.keep.saving import Saved, load, save
from naivenas_jax.layers.flax_layers import registered as _registered  # noqa: F401  registers the layers of linen and nnx
from naivenas_jax.layers.ops.attend import attend
from naivenas_jax.layers.ops.layer_vertex import layer
from naivenas_jax.layers.registry import register_layer
from naivenas_jax.layers.rule import LayerRule
from naivenas_jax.mutate.around import callbacks as watch, fallback
from naivenas_jax.mutate.around.keywords import EditKeywords, VerbKeywords, WidthKeywords
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.verbs.edge_edits import create_edge, remove_edge
from naivenas_jax.mutate.verbs.kernel import change_kernel
from naivenas_jax.mutate.verbs.rename import rename
from naivenas_jax.mutate.verbs.replace import map_vertices, replace_layer
from naivenas_jax.mutate.verbs.resize import delta_nin, delta_nout, resize
from naivenas_jax.mutate.verbs.vertex_edits import insert_vertex, remove_vertex
from naivenas_jax.population import population_view as _population_view  # noqa: F401  populations show themselves
from naivenas_jax.population.canonical import Canonical, canonical
from naivenas_jax.population.population import Population
from naivenas_jax.population.sorting import populations
from naivenas_jax.population.training import TrainedMember, evaluate_members, train_members
from naivenas_jax.schedule.gradual import Gradual, gradual
from naivenas_jax.schedule.soft import Soft, masked, soft_masks
from naivenas_jax.schedule.sparsity import group_lasso, group_shrink
from naivenas_jax.search.crossover import crossover
from naivenas_jax.search.lineage.history import History
from naivenas_jax.search.lineage.history_entry import HistoryEntry
from naivenas_jax.search.lineage.replay import replay
from naivenas_jax.search.random_mutation import random_mutation
from naivenas_jax.search.space import SearchSpace
from naivenas_jax.show import (
    change_views as _change_views,  # noqa: F401  mutations and plans show themselves
    network_views as _network_views,  # noqa: F401  graphs, handles, summaries and costs do
)
from naivenas_jax.show.diagram import Diagram, diagram
from naivenas_jax.show.report import Report, report
from naivenas_jax.show.summary_table import summary
from naivenas_jax.sizes.condition import ladder, multiple_of, one_of, size
from naivenas_jax.trace.back.class_constraints import class_constraints
from naivenas_jax.trace.back.rebuild import rebuild
from naivenas_jax.trace.model.importing import from_function, from_linen, from_nnx
from naivenas_jax.transfer import co_shaped as _co_shaped  # noqa: F401  gives plans their `apply`
from naivenas_jax.transfer.carrying.carry import CarryReport
from naivenas_jax.transfer.masks import freeze_mask
from naivenas_jax.transfer.merge import merge_neurons
from naivenas_jax.transfer.new_neurons.entries import NewEntries
from naivenas_jax.transfer.new_neurons.gradmax import gradmax
from naivenas_jax.utility.combine import combine, normalise, replace_nonfinite
from naivenas_jax.utility.scores.activity import activity
from naivenas_jax.utility.scores.batchnorm_scale import batchnorm_scale
from naivenas_jax.utility.scores.comparable import comparable
from naivenas_jax.utility.scores.contribution import contribution
from naivenas_jax.utility.scores.fisher import fisher
from naivenas_jax.utility.scores.magnitude import magnitude
from naivenas_jax.utility.scores.random_scores import random_utility
from naivenas_jax.utility.scores.taylor import TaylorAverage, taylor
from naivenas_jax.utility.tied import total_utility

__version__ = _version("naivenas_jax")

__all__ = [
    # Build a network
    "input_vertex",
    "layer",
    "invariant_vertex",
    "absorb_vertex",
    "immutable_vertex",
    "concat",
    "flatten",
    "attend",
    "Vertex",
    "Graph",
    "apply",
    "register_layer",
    "LayerRule",
    # Import an existing model, and get its own class back
    "from_linen",
    "from_nnx",
    "from_function",
    "rebuild",
    "class_constraints",
    # Look at a network
    "Handle",
    "Summary",
    "summary",
    "diagram",
    "Diagram",
    "Costs",
    "costs",
    "LatencyTable",
    "measure_latency",
    "count_programs",
    "CompiledPrograms",
    # Change widths
    "delta_nout",
    "delta_nin",
    "resize",
    "to",
    "relaxed",
    "size",
    "multiple_of",
    "one_of",
    "ladder",
    "fallback",
    "watch",
    # Change the structure
    "insert_vertex",
    "remove_vertex",
    "create_edge",
    "remove_edge",
    "replace_layer",
    "map_vertices",
    "rename",
    "change_kernel",
    "VerbKeywords",
    "WidthKeywords",
    "EditKeywords",
    # What a change returns, and what it knows
    "Mutation",
    "Plan",
    "AxisPlan",
    "CarryReport",
    "Report",
    "report",
    "freeze_mask",
    "merge_neurons",
    # New neurons
    "NewEntries",
    "gradmax",
    # Utility: which neurons stay
    "magnitude",
    "taylor",
    "TaylorAverage",
    "fisher",
    "activity",
    "batchnorm_scale",
    "random_utility",
    "comparable",
    "contribution",
    "combine",
    "normalise",
    "replace_nonfinite",
    "total_utility",
    # Change with data
    "compensate",
    "compress",
    "recalibrate",
    "refine",
    "frontier",
    "Frontier",
    "FrontierPoint",
    # Change during training
    "gradual",
    "Gradual",
    "soft_masks",
    "masked",
    "Soft",
    "group_lasso",
    "group_shrink",
    # Save and load
    "save",
    "load",
    "Saved",
    "register_function",
    # Many networks at once
    "Population",
    "populations",
    "train_members",
    "evaluate_members",
    "TrainedMember",
    "Canonical",
    "canonical",
    # Search
    "crossover",
    "random_mutation",
    "SearchSpace",
    "History",
    "HistoryEntry",
    "replay",
    # Errors
    "ArgumentError",
    "BudgetError",
    "CarryError",
    "DuplicateNameError",
    "GraphError",
    "ImmutableError",
    "InfeasibleError",
    "InternalError",
    "NaiveNASError",
    "NoMutationError",
    "OracleError",
    "PlanError",
    "RebuildError",
    "RequestError",
    "SaveError",
    "SizeMismatchError",
    "SolverError",
    "StructureError",
    "TimeLimitError",
    "TooSmallError",
    "UnknownNameError",
    "UnregisteredLayerError",
    "UtilityError",
    "VariablesError",
]

_open_doors(globals(), __all__)
