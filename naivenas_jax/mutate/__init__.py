"""The verbs: functions that change a network, and the `Mutation` that they return."""
