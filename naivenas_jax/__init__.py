"""Change the shape of a trained JAX network and keep what it knows."""

from naivenas_jax.align.plan import AxisPlan as AxisPlan, Plan as Plan
from naivenas_jax.align.problem.request import relaxed as relaxed, to as to
from naivenas_jax.cost.costs import Costs as Costs, costs as costs
from naivenas_jax.cost.latency import LatencyTable as LatencyTable, measure_latency as measure_latency
from naivenas_jax.errors import (
    BudgetError as BudgetError,
    CarryError as CarryError,
    DuplicateNameError as DuplicateNameError,
    GraphError as GraphError,
    ImmutableError as ImmutableError,
    InfeasibleError as InfeasibleError,
    NaiveNASError as NaiveNASError,
    OracleError as OracleError,
    PlanError as PlanError,
    RebuildError as RebuildError,
    RequestError as RequestError,
    SizeMismatchError as SizeMismatchError,
    SolverError as SolverError,
    StructureError as StructureError,
    TimeLimitError as TimeLimitError,
    TooSmallError as TooSmallError,
    UnknownNameError as UnknownNameError,
    UnregisteredLayerError as UnregisteredLayerError,
    UtilityError as UtilityError,
    VariablesError as VariablesError,
)
from naivenas_jax.fit.compensate import compensate as compensate
from naivenas_jax.fit.compress import compress as compress
from naivenas_jax.fit.recalibrate import recalibrate as recalibrate
from naivenas_jax.graph.graph import Graph as Graph, apply as apply
from naivenas_jax.graph.source import input_vertex as input_vertex
from naivenas_jax.graph.vertex import Vertex as Vertex
from naivenas_jax.graph.vertices.custom import absorb_vertex as absorb_vertex
from naivenas_jax.graph.vertices.function import (
    immutable_vertex as immutable_vertex,
    invariant_vertex as invariant_vertex,
)
from naivenas_jax.graph.vertices.stack import concat as concat, flatten as flatten
from naivenas_jax.layers import registered as _registered  # noqa: F401  registers the layers of linen and nnx
from naivenas_jax.layers.flax_layers.attend import attend as attend
from naivenas_jax.layers.registry import layer as layer, register_layer as register_layer
from naivenas_jax.layers.rule import LayerRule as LayerRule
from naivenas_jax.mutate.around import callbacks as watch, fallback as fallback  # noqa: F401
from naivenas_jax.mutate.result.mutation import Mutation as Mutation
from naivenas_jax.mutate.verbs.kernel import change_kernel as change_kernel
from naivenas_jax.mutate.verbs.rename import rename as rename
from naivenas_jax.mutate.verbs.replace import map_vertices as map_vertices, replace_layer as replace_layer
from naivenas_jax.mutate.verbs.resize import delta_nin as delta_nin, delta_nout as delta_nout, resize as resize
from naivenas_jax.mutate.verbs.structure import (
    create_edge as create_edge,
    insert_vertex as insert_vertex,
    remove_edge as remove_edge,
    remove_vertex as remove_vertex,
)
from naivenas_jax.schedule.gradual import Gradual as Gradual, gradual as gradual
from naivenas_jax.schedule.soft import Soft as Soft, masked as masked, soft_masks as soft_masks
from naivenas_jax.schedule.sparsity import group_lasso as group_lasso, group_shrink as group_shrink
from naivenas_jax.show.diagram import diagram as diagram
from naivenas_jax.show.report import Report as Report, report as report
from naivenas_jax.show.summary import summary as summary
from naivenas_jax.sizes.row import multiple_of as multiple_of, size as size
from naivenas_jax.trace.back.rebuild import rebuild as rebuild
from naivenas_jax.trace.model.importing import (
    from_function as from_function,
    from_linen as from_linen,
    from_nnx as from_nnx,
)
from naivenas_jax.transfer.masks import freeze_mask as freeze_mask
from naivenas_jax.transfer.new_neurons.fill import NewEntries as NewEntries
from naivenas_jax.transfer.new_neurons.gradmax import gradmax as gradmax
from naivenas_jax.utility.combine import (
    combine as combine,
    normalise as normalise,
    replace_nonfinite as replace_nonfinite,
)
from naivenas_jax.utility.scores.activity import activity as activity
from naivenas_jax.utility.scores.batchnorm_scale import batchnorm_scale as batchnorm_scale
from naivenas_jax.utility.scores.comparable import comparable as comparable
from naivenas_jax.utility.scores.fisher import fisher as fisher
from naivenas_jax.utility.scores.magnitude import magnitude as magnitude
from naivenas_jax.utility.scores.random_scores import random_utility as random_utility
from naivenas_jax.utility.scores.taylor import TaylorAverage as TaylorAverage, taylor as taylor
from naivenas_jax.utility.tied import total_utility as total_utility
