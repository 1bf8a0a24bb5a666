"""The names that users may rely on. A name that is added has to be added here."""

from __future__ import annotations

import types
from importlib import metadata

import naivenas_jax as nas

NAMES = [
    "EditKeywords",
    "VerbKeywords",
    "WidthKeywords",
    "ArgumentError",
    "AxisPlan",
    "BudgetError",
    "CarryError",
    "CarryReport",
    "CompiledPrograms",
    "Costs",
    "DuplicateNameError",
    "Frontier",
    "FrontierPoint",
    "Gradual",
    "Graph",
    "GraphError",
    "Handle",
    "History",
    "HistoryEntry",
    "ImmutableError",
    "InfeasibleError",
    "InternalError",
    "LatencyTable",
    "LayerRule",
    "Mutation",
    "NaiveNASError",
    "NoMutationError",
    "NewEntries",
    "OracleError",
    "Plan",
    "Population",
    "PlanError",
    "RebuildError",
    "Report",
    "SearchSpace",
    "RequestError",
    "SizeMismatchError",
    "Soft",
    "SolverError",
    "StructureError",
    "Summary",
    "TaylorAverage",
    "TimeLimitError",
    "TooSmallError",
    "UnknownNameError",
    "UnregisteredLayerError",
    "UtilityError",
    "VariablesError",
    "Vertex",
    "absorb_vertex",
    "activity",
    "apply",
    "attend",
    "batchnorm_scale",
    "change_kernel",
    "combine",
    "comparable",
    "compensate",
    "compress",
    "concat",
    "costs",
    "count_programs",
    "crossover",
    "create_edge",
    "delta_nin",
    "delta_nout",
    "diagram",
    "fallback",
    "fisher",
    "flatten",
    "freeze_mask",
    "from_function",
    "from_linen",
    "from_nnx",
    "frontier",
    "gradmax",
    "gradual",
    "group_lasso",
    "group_shrink",
    "immutable_vertex",
    "input_vertex",
    "insert_vertex",
    "invariant_vertex",
    "ladder",
    "layer",
    "magnitude",
    "map_vertices",
    "masked",
    "measure_latency",
    "merge_neurons",
    "multiple_of",
    "normalise",
    "one_of",
    "populations",
    "random_mutation",
    "random_utility",
    "rebuild",
    "class_constraints",
    "recalibrate",
    "refine",
    "register_layer",
    "relaxed",
    "remove_edge",
    "remove_vertex",
    "rename",
    "replace_layer",
    "replace_nonfinite",
    "report",
    "resize",
    "size",
    "soft_masks",
    "summary",
    "taylor",
    "to",
    "total_utility",
    "watch",
]


def test_names():
    assert sorted(nas.__all__) == sorted(NAMES)


def test_nothing_else_is_to_be_seen():
    seen = [name for name, value in vars(nas).items() if name[0] != "_" and not isinstance(value, types.ModuleType)]
    assert sorted({*seen, "fallback", "watch"}) == sorted(NAMES)  # the two are modules


def test_version():
    assert nas.__version__ == metadata.version("naivenas_jax")


def test_everything_says_what_it_is():
    undocumented = [name for name in NAMES if not (getattr(nas, name).__doc__ or "").strip()]
    assert undocumented == []
