"""Change the shape of a trained JAX network and keep what it knows."""

from naivenas_jax.align.plan import AxisPlan as AxisPlan, Plan as Plan
from naivenas_jax.align.request import relaxed as relaxed, to as to
from naivenas_jax.errors import (
    CarryError as CarryError,
    DuplicateNameError as DuplicateNameError,
    GraphError as GraphError,
    InfeasibleError as InfeasibleError,
    NaiveNASError as NaiveNASError,
    OracleError as OracleError,
    PlanError as PlanError,
    RequestError as RequestError,
    SizeMismatchError as SizeMismatchError,
    SolverError as SolverError,
    StructureError as StructureError,
    TimeLimitError as TimeLimitError,
    UnknownNameError as UnknownNameError,
    UnregisteredLayerError as UnregisteredLayerError,
    UtilityError as UtilityError,
    VariablesError as VariablesError,
)
from naivenas_jax.graph.custom import absorb_vertex as absorb_vertex
from naivenas_jax.graph.function import immutable_vertex as immutable_vertex, invariant_vertex as invariant_vertex
from naivenas_jax.graph.graph import Graph as Graph, apply as apply
from naivenas_jax.graph.source import input_vertex as input_vertex
from naivenas_jax.graph.stack import concat as concat, flatten as flatten
from naivenas_jax.graph.vertex import Vertex as Vertex
from naivenas_jax.layers import linen as _linen  # registers the linen layers
from naivenas_jax.layers.registry import layer as layer, register_layer as register_layer
from naivenas_jax.layers.rule import LayerRule as LayerRule
from naivenas_jax.mutate.mutation import Mutation as Mutation
from naivenas_jax.mutate.resize import delta_nin as delta_nin, delta_nout as delta_nout, resize as resize
from naivenas_jax.transfer.fill import NewEntries as NewEntries
from naivenas_jax.utility.magnitude import magnitude as magnitude
