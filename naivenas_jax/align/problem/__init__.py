"""The problem in whole numbers: requests, conditions and budgets over groups of interchangeable neurons."""
