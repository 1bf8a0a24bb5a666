"""Change the shape of a trained JAX network and keep what it knows."""

from naivenas_jax.align.plan import AxisPlan as AxisPlan
from naivenas_jax.align.plan import Plan as Plan
from naivenas_jax.align.request import relaxed as relaxed
from naivenas_jax.align.request import to as to
from naivenas_jax.cost.counts import Costs as Costs
from naivenas_jax.cost.counts import costs as costs
from naivenas_jax.cost.latency import LatencyTable as LatencyTable
from naivenas_jax.cost.latency import measure_latency as measure_latency
from naivenas_jax.errors import BudgetError as BudgetError
from naivenas_jax.errors import (
    CarryError as CarryError,
)
from naivenas_jax.errors import (
    DuplicateNameError as DuplicateNameError,
)
from naivenas_jax.errors import (
    GraphError as GraphError,
)
from naivenas_jax.errors import (
    ImmutableError as ImmutableError,
)
from naivenas_jax.errors import (
    InfeasibleError as InfeasibleError,
)
from naivenas_jax.errors import (
    NaiveNASError as NaiveNASError,
)
from naivenas_jax.errors import (
    OracleError as OracleError,
)
from naivenas_jax.errors import (
    PlanError as PlanError,
)
from naivenas_jax.errors import (
    RebuildError as RebuildError,
)
from naivenas_jax.errors import (
    RequestError as RequestError,
)
from naivenas_jax.errors import (
    SizeMismatchError as SizeMismatchError,
)
from naivenas_jax.errors import (
    SolverError as SolverError,
)
from naivenas_jax.errors import (
    StructureError as StructureError,
)
from naivenas_jax.errors import (
    TimeLimitError as TimeLimitError,
)
from naivenas_jax.errors import (
    TooSmallError as TooSmallError,
)
from naivenas_jax.errors import (
    UnknownNameError as UnknownNameError,
)
from naivenas_jax.errors import (
    UnregisteredLayerError as UnregisteredLayerError,
)
from naivenas_jax.errors import (
    UtilityError as UtilityError,
)
from naivenas_jax.errors import (
    VariablesError as VariablesError,
)
from naivenas_jax.fit.compensate import compensate as compensate
from naivenas_jax.fit.compress import compress as compress
from naivenas_jax.fit.statistics import recalibrate as recalibrate
from naivenas_jax.graph.custom import absorb_vertex as absorb_vertex
from naivenas_jax.graph.function import immutable_vertex as immutable_vertex
from naivenas_jax.graph.function import invariant_vertex as invariant_vertex
from naivenas_jax.graph.graph import Graph as Graph
from naivenas_jax.graph.graph import apply as apply
from naivenas_jax.graph.source import input_vertex as input_vertex
from naivenas_jax.graph.stack import concat as concat
from naivenas_jax.graph.stack import flatten as flatten
from naivenas_jax.graph.vertex import Vertex as Vertex
from naivenas_jax.layers import known as _known  # noqa: F401  registers the layers of linen and nnx
from naivenas_jax.layers.attend import attend as attend
from naivenas_jax.layers.registry import layer as layer
from naivenas_jax.layers.registry import register_layer as register_layer
from naivenas_jax.layers.rule import LayerRule as LayerRule
from naivenas_jax.mutate import fallback as fallback
from naivenas_jax.mutate import watch as watch
from naivenas_jax.mutate.kernel import change_kernel as change_kernel
from naivenas_jax.mutate.mutation import Mutation as Mutation
from naivenas_jax.mutate.rename import rename as rename
from naivenas_jax.mutate.replace import map_vertices as map_vertices
from naivenas_jax.mutate.replace import replace_layer as replace_layer
from naivenas_jax.mutate.resize import delta_nin as delta_nin
from naivenas_jax.mutate.resize import delta_nout as delta_nout
from naivenas_jax.mutate.resize import resize as resize
from naivenas_jax.mutate.structure import (
    create_edge as create_edge,
)
from naivenas_jax.mutate.structure import (
    insert_vertex as insert_vertex,
)
from naivenas_jax.mutate.structure import (
    remove_edge as remove_edge,
)
from naivenas_jax.mutate.structure import (
    remove_vertex as remove_vertex,
)
from naivenas_jax.schedule.gradual import Gradual as Gradual
from naivenas_jax.schedule.gradual import gradual as gradual
from naivenas_jax.schedule.soft import Soft as Soft
from naivenas_jax.schedule.soft import masked as masked
from naivenas_jax.schedule.soft import soft_masks as soft_masks
from naivenas_jax.schedule.sparsity import group_lasso as group_lasso
from naivenas_jax.schedule.sparsity import group_shrink as group_shrink
from naivenas_jax.show.diagram import diagram as diagram
from naivenas_jax.show.report import Report as Report
from naivenas_jax.show.report import report as report
from naivenas_jax.show.summary import summary as summary
from naivenas_jax.sizes.row import multiple_of as multiple_of
from naivenas_jax.sizes.row import size as size
from naivenas_jax.trace.back.rebuild import rebuild as rebuild
from naivenas_jax.trace.importing import from_function as from_function
from naivenas_jax.trace.importing import from_linen as from_linen
from naivenas_jax.trace.importing import from_nnx as from_nnx
from naivenas_jax.transfer.fill import NewEntries as NewEntries
from naivenas_jax.transfer.gradmax import gradmax as gradmax
from naivenas_jax.transfer.masks import freeze_mask as freeze_mask
from naivenas_jax.utility.activity import activity as activity
from naivenas_jax.utility.chance import random_utility as random_utility
from naivenas_jax.utility.combine import combine as combine
from naivenas_jax.utility.combine import normalise as normalise
from naivenas_jax.utility.combine import replace_nonfinite as replace_nonfinite
from naivenas_jax.utility.comparable import comparable as comparable
from naivenas_jax.utility.fisher import fisher as fisher
from naivenas_jax.utility.magnitude import magnitude as magnitude
from naivenas_jax.utility.normalisation import batchnorm_scale as batchnorm_scale
from naivenas_jax.utility.taylor import TaylorAverage as TaylorAverage
from naivenas_jax.utility.taylor import taylor as taylor
from naivenas_jax.utility.tied import total_utility as total_utility
