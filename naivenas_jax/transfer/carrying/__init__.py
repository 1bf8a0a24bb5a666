"""State that has the shapes of the variables, such as an optimizer's, brought through a plan."""
